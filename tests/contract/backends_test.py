"""The same steps on vmap, pmap and shard_map."""

from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from tests import helpers
from tests.contract import drive, table

WITH_WORKERS = [row for row in table.TABLE if row.kind != 'alone']
COMMON = [row for row in WITH_WORKERS if row.kind != 'own']
OWN = [row for row in WITH_WORKERS if row.kind == 'own']
# They share the exchange of the median, draw as `drop_updates` does, or measure
# as `track_moments` does.
LIKE_OTHERS = ('trimmed_mean', 'smooth_sign_agreement', 'sign_majority',
               'langevin_noise', 'quantize_updates', 'scale_by_diversity')
# One row of each function, and of draws of an order. Decisions by layer on
# devices are in tests/gradiv/aggregation/early_groups_test.py.
SHORT = [row for row in COMMON if row.name not in LIKE_OTHERS and (
  row in table.FUNCTIONS or row.name == 'agreement_shuffled')]
# By row, relative and absolute tolerance. A hundred steps, of which each is
# rounded; roots of small eigenvalues; distances of cosines, which between
# parallel gradients are rounding alone.
ROUNDED = {'geometric_median': (2e-5, 1e-30), 'aligned_mtl': (1e-4, 1e-30),
           'agreement_windowed': (1e-5, 1e-6)}
# One of each exchange: all-reduce, Gram matrix, coordinates with draws.
ON_PMAP = ('aggregate_by_mean', 'agreement_running_mean', 'sign_dropout')


class BackendsTest(parameterized.TestCase):

  def compare(self, row, backend, axis):
    # Draws of its own: not what the tests before have left.
    self.enterContext(
      mock.patch.object(drive, 'RNG', np.random.default_rng(4)))
    for kind in ('plain', 'zero', 'rank_one', 'tiny', 'huge', 'one_nan'):
      grads = drive.gradients(kind)
      helpers.assert_close(
        drive.update(row, grads, axis, backend), drive.update(row, grads),
        *ROUNDED.get(row.name, (1e-5, 1e-30)), of_largest=1e-6)

  @parameterized.named_parameters(*table.named(SHORT))
  def test_shard_map_agrees(self, row):
    self.compare(row, 'shard_map', ('devices', 'virtual'))

  # All share one exchange, of which other rows show that it is the same.
  @parameterized.named_parameters(*table.named(
    [row for row in COMMON if row not in SHORT]))
  @pytest.mark.slow
  def test_so_does_it_for_every_row(self, row):
    self.compare(row, 'shard_map', ('devices', 'virtual'))

  # One worker per device; tests/gradiv/decentralized sees longer runs.
  @parameterized.named_parameters(*table.named(OWN))
  @pytest.mark.slow
  def test_shard_map_agrees_on_states_of_workers_own(self, row):
    self.compare(row, 'shard_map', 'workers')

  @parameterized.named_parameters(*table.named(
    [row for row in WITH_WORKERS if row.name in ON_PMAP]))
  def test_pmap_agrees(self, row):
    self.compare(row, 'pmap', 'workers')

  @parameterized.named_parameters(*table.named(
    [row for row in WITH_WORKERS if row.name not in ON_PMAP]))
  @pytest.mark.slow
  def test_so_does_pmap_for_all(self, row):
    self.compare(row, 'pmap', 'workers')


if __name__ == '__main__':
  absltest.main()
