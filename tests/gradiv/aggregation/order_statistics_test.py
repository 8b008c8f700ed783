"""Medians, trimmed means and Bulyan bear a minority of anything."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from tests import helpers

RNG = np.random.default_rng(8)


def middle_by_krum(x, num_byzantine):
  """Bulyan by its definition, one leaf of one vector."""
  left, chosen = list(range(len(x))), []
  while len(chosen) < len(x) - 2 * num_byzantine:
    rows = x[left]
    squares = ((rows[:, None] - rows[None])**2).sum(-1)
    near = max(len(left) - num_byzantine - 2, 1)
    scores = np.sort(squares, 1)[:, 1:near + 1].sum(1)
    chosen.append(left.pop(int(np.argmin(scores))))
  picked = x[sorted(chosen)]
  gap = np.abs(picked - np.median(picked, 0))
  order = np.argsort(gap, 0, kind='stable')
  beta = max(len(picked) - 2 * num_byzantine, 1)
  return np.take_along_axis(picked, order, 0)[:beta].mean(0)


class OrderStatisticsTest(parameterized.TestCase):

  @parameterized.parameters((7, 1), (12, 2))
  def test_bulyan(self, workers, num_byzantine):
    self.check_bulyan(workers, num_byzantine)

  @parameterized.parameters((11, 2), (8, 0))
  @pytest.mark.slow
  def test_bulyan_of_other_numbers(self, workers, num_byzantine):
    self.check_bulyan(workers, num_byzantine)

  def check_bulyan(self, workers, num_byzantine):
    # Without ties: two values as far from the median would be a draw.
    grads = {'a': jnp.float32(RNG.normal(size=(workers, 9, 50)))}
    grads['a'] = grads['a'].at[:num_byzantine].multiply(100)
    tx = aggregation.aggregate_by_bulyan(num_byzantine, 'workers')
    update, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(grads['a'][0]))
    rows = np.asarray(grads['a'], np.float64).reshape(workers, -1)
    np.testing.assert_allclose(
      np.ravel(update['a']), middle_by_krum(rows, num_byzantine), 1e-4, 1e-5)

  @parameterized.parameters(
    (gradiv.aggregate_by_median,),
    (lambda axis: gradiv.aggregate_by_trimmed_mean(2, axis),),
    (lambda axis: aggregation.aggregate_by_bulyan(1, axis),))
  def test_bears_a_minority_of_anything(self, make):
    """The result stays within the range of the honest."""
    honest = RNG.normal(size=(7, 400)).astype('f')
    tx = make('workers')
    for bad in (1e15, -1e15, np.nan, np.inf):
      grads = np.concatenate([honest[:3], np.full((1, 400), bad, 'f'),
                              honest[3:]])
      update, _ = helpers.step_of(tx)(grads, tx.init(grads[0]))
      self.assertTrue((update >= honest.min(0) - 1e-6).all(), bad)
      self.assertTrue((update <= honest.max(0) + 1e-6).all(), bad)

  def test_bulyan_with_too_many_absent_is_zero(self):
    grads = np.full((7, 3), np.nan, np.float32)
    grads[0], grads[1] = 99, 1
    tx = aggregation.aggregate_by_bulyan(1, 'workers')
    update, state = helpers.step_of(tx)(grads, tx.init(grads[0]))
    np.testing.assert_array_equal(update, 0)
    self.assertEqual(int(state.num_left_out), 5)


if __name__ == '__main__':
  absltest.main()
