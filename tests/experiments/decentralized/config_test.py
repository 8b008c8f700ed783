"""The flags of the third paper."""

import dataclasses

from absl.testing import absltest, parameterized

from experiments.common import flags, parsing
from experiments.decentralized import (
  arms as decentralized_arms,
  config as decentralized,
  optimizers,
  task,
)
from tests.experiments import prepared
from tests.experiments.decentralized.small import SMALL


class ConfigTest(parameterized.TestCase):

  def test_the_flags_name_every_graph(self):
    self.assertEqual(
      decentralized.TOPOLOGIES, tuple(optimizers.TOPOLOGIES))

  @parameterized.parameters(
    ('--num_workers=1', 'at least 2'), ('--domains=speech', 'some of'),
    ('--batch_sizes=1001', 'multiples of --num_workers=5'),
    ('--batch_sizes=250,250', 'each once'),
    ('--text_batch_size=7', '--text_batch_size=7: must be multiples'),
    ('--topologies=torus', '--topologies'), ('--learning_rates=2,1', 'rising'),
    ('--lamb_rates=0', 'positive'), ('--focus_rate=3', 'one of --learning'),
    ('--noise_stddev=-1', 'at least 0'), ('--warmup_steps=-1', 'at least 0'),
    ('--measure_every=7', 'a multiple of --num_records=10 times'),
    ('--num_records=0', 'a multiple of'), ('--steps=0', 'a multiple of'),
    ('--num_matchings=0', 'at least 1'), ('--target_accuracy=1', 'below 1'),
    ('--target_loss=0', 'positive'), ('--imposed_window=0', 'at least 1'),
    ('--fig_5_rates=2,1', 'rising'),
    ('--fig_5_rates=0', 'positive'), ('--rate_cuts=0.5,2', 'shares'),
    ('--few_seeds=0', 'at least 1'), ('--roundings=3', '1 or 2'),
    ('--text_model_options=3', '--text_model_options=.3.: must be a JSON'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(
        decentralized.Config, ['decentralized', '--workdir=x', flag])

  @parameterized.parameters((5000, 2048, 'at most the 1437'),
                            (100, 64, 'a multiple of it'))
  def test_examples_to_measure_with(self, count, size, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      task.Task(dataclasses.replace(
        SMALL, data_dir=prepared.folder(), measured_examples=count,
        eval_batch_size=size), 'images')

  def test_fig_5_can_be_left_out(self):
    six = ['decentralized', '--workdir=x', '--batch_sizes=1200',
           '--text_batch_size=96', '--num_workers=6']
    with self.assertRaisesRegex(flags.UsageError, 'empty where 1200, its'):
      parsing.parse(decentralized.Config, six)
    parsing.parse(decentralized.Config, [*six, '--fig_5_rates='])
    config = parsing.parse(decentralized.Config, [
      'decentralized', '--workdir=x', '--fig_5_rates='])
    self.assertEqual(config.fig_5_rates, ())
    self.assertNotIn(6, {
      arm.num_workers for arm in decentralized_arms.list_arms(config)})


if __name__ == '__main__':
  absltest.main()
