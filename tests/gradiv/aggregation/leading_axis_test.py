"""A leading axis of workers, as optax has it, and its `process`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import sample

RNG = np.random.default_rng(8)


class ProtocolTest(parameterized.TestCase):
  """optax's leading axis, and its `process`."""

  def setUp(self):
    super().setUp()
    try:
      from optax.experimental import aggregating
    except ImportError:
      self.skipTest('optax is older than 0.2.7')
    self.aggregating = aggregating

  def test_a_leading_axis(self):
    grads = sample(6)
    tx = aggregation.as_aggregator(gradiv.aggregate_by_median('rows'), 'rows')
    self.assertIsInstance(tx, self.aggregating.Aggregator)
    update, _ = jax.jit(tx.update)(
      grads, tx.init(jax.tree.map(lambda g: g[0], grads)))
    helpers.assert_close(update, jax.tree.map(
      lambda g: np.median(g, 0), grads), 1e-6, 1e-6)

  def test_two_leading_axes(self):
    grads = np.float32(RNG.normal(size=(2, 3, 5)))
    tx = aggregation.as_aggregator(
      gradiv.aggregate_by_mean(('a', 'b')), ('a', 'b'))
    update, _ = jax.jit(tx.update)(grads, tx.init(grads[0, 0]))
    np.testing.assert_allclose(update, grads.mean((0, 1)), 1e-5, 1e-6)

  @pytest.mark.slow
  def test_in_process_a_step_without_agreement_is_none(self):
    aggregator = aggregation.as_aggregator(
      gradiv.aggregate_by_agreement(0.5, 'rows'), 'rows')
    tx = self.aggregating.process(
      optax.identity(), aggregator, optax.sgd(1., momentum=0.9))
    params = jnp.zeros(2)
    state, moved = tx.init(params), []
    for rows in ([[1., 0], [1, .1]], [[1., 0], [-1, 0]], [[1., 0], [1, .1]]):
      updates, state = tx.update(jnp.float32(rows), state, params)
      moved.append(float(jnp.abs(updates).sum()) > 0)
    self.assertEqual(moved, [True, False, True])


if __name__ == '__main__':
  absltest.main()
