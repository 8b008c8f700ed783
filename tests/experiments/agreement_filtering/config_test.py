"""The flags of the fourth paper."""

import dataclasses

from absl.testing import absltest, parameterized

from experiments.agreement_filtering import config as agreement_filtering, task
from experiments.common import flags, parsing
from gradiv import weightings
from tests.experiments import prepared
from tests.experiments.agreement_filtering.small import SMALL


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    (('--num_workers=1',), '--num_workers=1: must be at least 2'),
    (('--noise_rates=0.4,0.2',), 'rising'),
    (('--noise_rates=0,1.2',), 'shares from 0 to 1'),
    (('--noisy_label_key=noise_label',), '0 alone'),
    (('--combines=halving',), 'running_mean among them'),
    (('--combines=running_mean,median',), 'some of'),
    (('--thresholds=3',), 'cosine distances from 0 to 2'),
    (('--control_threshold=0.5',), 'one of --thresholds'),
    (('--num_records=7',), 'a divisor of --steps=1000'),
    (('--eval_batch_size=0',), '--eval_batch_size=0: must be at least 1'),
    (('--train_examples=-1',), '--train_examples=-1'),
    (('--momentum=1',), '--momentum=1.0'),
    (('--weight_decay=-1',), '--weight_decay=-1.0'),
    (('--per_class=0',), '--per_class=0'))
  def test_values_out_of_range(self, argv, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(agreement_filtering.Config,
                    ['agreement_filtering', *argv])

  @parameterized.parameters(
    (dict(validation_examples=1437), '--validation_examples=1437: must be '
     'below the 1437'),
    (dict(train_examples=1150), '--train_examples=1150: must be at most the '
     '1149'))
  def test_more_than_there_is(self, changed, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      task.Task(dataclasses.replace(
        SMALL, data_dir=prepared.folder(), **changed))

  def test_the_ways_to_filter_are_those_of_the_library(self):
    self.assertEqual(agreement_filtering.COMBINES, weightings.COMBINE)


if __name__ == '__main__':
  absltest.main()
