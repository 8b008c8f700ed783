"""What the update is when the workers' gradients change in a known way."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from tests import helpers
from tests.contract import drive, table

WIRE = [row for row in table.TABLE if row.kind == 'wire']
LEAVING_OUT = [row for row in WIRE if row.leaves_out]
SHORT = [row for row in LEAVING_OUT if row in table.FUNCTIONS or row.name in (
  'dual_proj_by_layer', 'centered_clipping')]
WORKERS = table.WORKERS


def spoiled(grads, bad):
  """Put one bad number into the gradient of one worker."""
  kernel = grads['layer']['kernel'].at[3, 1, 2].set(bad)
  return grads | {'layer': grads['layer'] | {'kernel': kernel}}


def properties_of(rows):
  """Return a test case of what these rows claim."""
  wire = [row for row in rows if row.kind == 'wire']

  class Properties(parameterized.TestCase):

    @parameterized.named_parameters(*table.named(
      [row for row in rows if row.permutes]))
    def test_permuting_the_workers_changes_nothing(self, row):
      grads, order = drive.gradients(), drive.RNG.permutation(WORKERS)
      updates, state = drive.update(row, grads)
      if not row.aggregates:
        updates = jax.tree.map(lambda x: x[order], updates)
      if len(getattr(state, 'weights', ())) == WORKERS:
        state = state._replace(weights=state.weights[order])
      helpers.assert_close(
        drive.update(row, jax.tree.map(lambda g: g[order], grads)),
        (updates, state), row.rtol, 1e-6)

    @parameterized.named_parameters(*table.named(
      [row for row in wire if row.gain]))
    def test_keeps_what_all_agree_on(self, row):
      grads = drive.gradients('equal')
      updates, _ = drive.update(row, grads)
      helpers.assert_close(
        updates, jax.tree.map(lambda g: row.gain * g[0], grads), row.rtol)

    @parameterized.named_parameters(*table.named(
      [row for row in wire if row.scales]))
    def test_scale_covariance(self, row):
      grads = drive.gradients()
      updates, _ = drive.update(row, grads)
      for scale in (3, -3) if row.flips else (3,):
        scaled, _ = drive.update(row, jax.tree.map(lambda g: scale * g, grads))
        helpers.assert_close(
          scaled, jax.tree.map(lambda u: scale * u, updates), row.rtol, 1e-6)

    @parameterized.named_parameters(*table.named(wire))
    def test_counts_what_is_not_finite(self, row):
      grads, seen = drive.gradients(), []
      for bad in (np.nan, np.inf, 1e30):  # too long to be squared
        seen.append(drive.update(row, spoiled(grads, bad)))
        self.assertEqual(seen[-1][1].num_left_out, 1)
        for leaf in jax.tree.leaves(seen[-1][0]):
          self.assertTrue(np.isfinite(leaf).all())
        helpers.assert_same(seen[-1], seen[0])

    @parameterized.named_parameters(*table.named(wire))
    def test_without_any_finite_gradient_the_update_is_zero(self, row):
      grads = jax.tree.map(lambda g: np.nan * g, drive.gradients())
      updates, state = drive.update(row, grads)
      self.assertEqual(state.num_left_out, WORKERS)
      for leaf in jax.tree.leaves(updates):
        self.assertTrue(np.all(np.asarray(leaf) == 0))

  return Properties


SHARED = [row for row in table.TABLE if row.kind in ('wire', 'before')]


class PropertiesTest(properties_of(
    [row for row in SHARED if not row.formula_only])):
  pass


# tests/gradiv/weightings see what these formulas do to a Gram matrix.
@pytest.mark.slow
class FormulasTest(properties_of([row for row in SHARED if row.formula_only])):
  pass


class LeavingOutTest(parameterized.TestCase):

  def leave_out(self, row):
    grads = drive.gradients()
    rest = jax.tree.map(lambda g: np.delete(g, 3, 0), grads)
    updates, _ = drive.update(row, spoiled(grads, np.nan))
    helpers.assert_close(updates, drive.update(row, rest)[0], row.rtol, 1e-6)

  @parameterized.named_parameters(*table.named(SHORT))
  def test_acts_as_if_a_bad_worker_was_not_there(self, row):
    self.leave_out(row)

  # tests/gradiv/weightings ask that of each formula, with no exchange around.
  @parameterized.named_parameters(*table.named(
    [row for row in LEAVING_OUT if row not in SHORT]))
  @pytest.mark.slow
  def test_so_does_every_row(self, row):
    self.leave_out(row)


if __name__ == '__main__':
  absltest.main()
