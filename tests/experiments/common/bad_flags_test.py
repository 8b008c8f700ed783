"""No paper takes a number that nothing can be computed from."""

import importlib
import math

from absl.testing import absltest, parameterized

from experiments.common import flags, parsing

PAPERS = (
  'adascale', 'agreement_filtering', 'batch_size_control', 'critical_batch',
  'critical_parameters', 'decentralized', 'gradient_diversity.batches',
  'gradient_diversity.mechanisms', 'overhead', 'overhead.accelerator')
# These mean something where they are negative or empty.
NEGATIVE = {'process_id', 'num_processes'}
EMPTY = {'fig_5_rates', 'rate_cuts'}


def bad_values(field):
  """Yield what a flag must refuse, by the type of its default."""
  default = field.default
  items = default if type(default) is tuple else (default,)
  for item in items[:1]:
    if isinstance(item, str) and not field.metadata['choices']:
      continue
    bad = {float: (math.nan, math.inf, -math.inf, -1.0),
           int: (2**70, *(() if field.name in NEGATIVE else (-1, -2**70))),
           str: ('no such choice',), bool: ()}[type(item)]
    if type(default) is tuple:
      yield from ((*default, x) for x in bad)
      yield (*default, default[-1])
      if field.name not in EMPTY:
        yield ()
    else:
      yield from bad


class BadFlagsTest(parameterized.TestCase):

  @parameterized.parameters(*PAPERS)
  def test_each_flag_is_refused_by_its_name(self, paper):
    cls = importlib.import_module(f'experiments.{paper}.config').Config
    count = 0
    for field in parsing.declared(cls):
      for value in bad_values(field):
        with self.subTest(flag=field.name, value=value):
          count += 1
          with self.assertRaisesRegex(
              flags.UsageError, f'--{field.name}=') as caught:
            cls(**{field.name: value})
          self.assertNotIn('\n', str(caught.exception))
    self.assertGreater(count, 5)


if __name__ == '__main__':
  absltest.main()
