"""The table beside TorchJD: said to be missing, or laid out."""

import sys
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.overhead import peers


class PeersTest(parameterized.TestCase):

  def test_one_line_where_torchjd_is_missing(self):
    with mock.patch.dict(sys.modules, {'torchjd': None, 'torch': None}):
      found = peers.measure((10,), (4,), 1)
      self.assertIn("pip install '.[peers]'", peers.measure_apart())
    self.assertIn("pip install '.[peers]'", found)
    self.assertEqual(peers.table(found).strip(), found)

  def test_the_table_shows_ratios_and_what_is_missing(self):
    rules = {name: {'ours': 2., 'theirs': 3.} for name in peers.PAIRS}
    rules['UPGrad'] = {'failed': 'no solver'}
    lines = peers.table([{'n': 8, 'D': 100_000, 'rules': rules}]).splitlines()
    self.assertIn('n=8 D=100,000', lines[3])
    self.assertIn('1.50 (2.00)', lines[4])
    self.assertEqual(
      lines[-1], 'UPGrad failed, n=8 D=100,000: no solver')

  def test_a_rule_that_fails_does_not_stop_the_others(self):
    torch, aggregation = mock.Mock(), mock.Mock()
    torch.from_numpy = lambda rows: rows
    aggregation.Mean = lambda: lambda rows: mock.Mock(
      numpy=lambda: rows.mean(0))
    aggregation.Krum = mock.Mock(side_effect=ValueError('no f'))
    cell = peers._cell(
      torch, aggregation, 4, 6, 0.01, ('Krum', 'mean'))['rules']
    self.assertEqual(cell['Krum'], {'failed': 'ValueError: no f'})
    self.assertLess(cell['mean']['distance'], 1e-6)
    self.assertGreater(cell['mean']['theirs'], 0)

  @parameterized.parameters('mean', 'Krum', 'trimmed mean')
  def test_ours_combine_rows(self, name):
    rows = np.ones((4, 6), 'f')
    step = peers._compiled(peers.PAIRS[name].ours(1), {'g': jnp.asarray(rows)})
    np.testing.assert_allclose(step({'g': rows})['g'], np.ones(6), 1e-6)


if __name__ == '__main__':
  absltest.main()
