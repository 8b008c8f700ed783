"""The flags that papers share: checked once, with errors that name the flag."""

import dataclasses
from unittest import mock

from absl.testing import absltest, parameterized

from experiments.common import flags
from experiments.common.flags import flag


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of a paper."""

  ways: tuple[str, ...] = flag(('up',), 'ways', ('up', 'down'))
  batch_sizes: tuple[int, ...] = flag((16, 32), 'sizes of batches')
  train_examples: int = flag(64, 'examples to train on')

  def __post_init__(self):
    super().__post_init__()
    flags.check_together(
      self, ('train_examples', 'batch_sizes'), 'each size must divide it',
      all(self.train_examples % b == 0 for b in self.batch_sizes))


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(num_workers=0), '--num_workers=0: must be at least 1'),
    (dict(num_seeds=0), '--num_seeds=0: must be at least 1'),
    (dict(backend='gpu'), "--backend='gpu': must be one of vmap, pmap"),
    (dict(model='resnet50'), "--model='resnet50': must be one of .*resnet18"),
    (dict(model='lstm'), "--model='lstm': must be one of"),
    (dict(ways=('up', 'left')), '--ways=up,left: must be some of up, down'),
    (dict(ways=()), "--ways='': must be some of"),
    (dict(lanes_at_once=-1), '--lanes_at_once=-1: must be at least 0'),
    (dict(image_size=99999), '--image_size=99999: must be from 0 to 1024'),
    (dict(roundings=3), '--roundings=3: must be 1 or 2'),
    (dict(writers=('wandbs',)), '--writers=wandbs: must be some of'),
    (dict(profile='5'), "--profile='5': must be two steps, rising"),
    (dict(profile='9:9'), "--profile='9:9': must be two steps, rising"),
    (dict(seed=2**31), '--seed=2147483648'),
    (dict(model_options='[]'), 'must be a JSON object'),
    (dict(model_options='{"hiden": [32]}'),
     '--model_options=.*hiden=.* is no option of .mlp.; allowed: hidden, '
     'activation, use_bias; did you mean hidden'),
    (dict(model_options='{"width": 3}'), 'width=3 is no option .*allowed'),
    (dict(model='resnet18', model_options='{"width": 7}'), 'width is 7'))
  def test_values_out_of_range(self, options, message):
    with self.assertRaisesRegex(flags.UsageError, message) as caught:
      Config(**options)
    self.assertNotIn('\n', str(caught.exception))

  def test_who_looks_on(self):
    self.assertEqual(Config(max_nonfinite=3).watch(), {
      'writers': (), 'profile': None, 'max_nonfinite': 3, 'stuck_after': 0})
    self.assertEqual(Config(profile='100:110').watch()['profile'], (100, 110))
    with mock.patch.object(flags.importlib.util, 'find_spec', lambda _: None):
      with self.assertRaisesRegex(
          flags.UsageError, '--writers=wandb: must be installed: pip install'):
        Config(writers=('wandb',))

  def test_of_two_flags_the_one_that_was_given_is_to_blame(self):
    with self.assertRaisesRegex(
        flags.UsageError, '^--train_examples=99 does not fit --batch_sizes=16,'
        '32: each size must divide it$'):
      Config(train_examples=99)
    with self.assertRaisesRegex(
        flags.UsageError, '^--batch_sizes=16,24 does not fit --train_examples='
        '64: each'):
      Config(batch_sizes=(16, 24))

  def test_the_size_of_the_data(self):
    Config().check_examples(64)
    with self.assertRaisesRegex(
        flags.UsageError, '--train_examples=64: must be at most the 63 of '
        'digits'):
      Config().check_examples(63)

  def test_where_and_how_to_compute_defines_no_part(self):
    picked = Config(workdir='x', lanes_at_once=3).pick('model')
    self.assertEqual(picked, {'model': 'mlp', 'rounding': ''})

  def test_who_computes(self):
    many = Config(backend='pmap', lanes_at_once=3, rounding='reversed')
    workers = many.workers()
    self.assertEqual((workers.num_workers, workers.backend,
                      workers.lanes_at_once, workers.is_reversed),
                     (8, 'pmap', 3, True))
    self.assertEqual(many.workers(1).backend, 'vmap')
    self.assertEqual(list(Config(seed=5, num_seeds=2).seeds), [5, 6])


if __name__ == '__main__':
  absltest.main()
