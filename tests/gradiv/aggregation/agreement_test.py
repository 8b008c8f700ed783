"""Gradient agreement filtering of workers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from tests import helpers

RNG = np.random.default_rng(7)

def gradients(workers=8, dim=50, lean=0.4, dtype=jnp.float32):
  """Noise around a common direction, as a tree."""
  common = RNG.normal(size=dim)
  rows = lean * common + RNG.normal(size=(workers, dim))
  return {'kernel': jnp.asarray(rows[:, :40].reshape(-1, 8, 5), dtype),
          'bias': jnp.asarray(rows[:, 40:], dtype)}


def row(tree, i):
  return jax.tree.map(lambda x: x[i], tree)

def by_workers(grads, tx):
  return helpers.step_of(tx)(grads, tx.init(row(grads, 0)))

class StateTest(parameterized.TestCase):
  """The state records what was decided."""

  @parameterized.parameters('vmap', 'pmap', 'shard_map')
  def test_weights_size_and_cosine(self, backend):
    grads = gradients(lean=0.3)
    tx = gradiv.aggregate_by_agreement(0.9, 'workers', num_workers=8)
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(row(grads, 0)),
      backend=backend)
    rows = np.concatenate([np.asarray(x, np.float64).reshape(8, -1)
                           for x in jax.tree.leaves(grads)], 1)
    norms = np.linalg.norm(rows, axis=1)
    cosines = rows @ rows.T / np.outer(norms, norms)
    weights = np.asarray(state.weights, np.float64)
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)])
    np.testing.assert_allclose(flat, weights @ rows, 1e-5, 1e-6)
    agreed = np.count_nonzero(weights)
    self.assertEqual(int(state.num_agreed), agreed)
    self.assertBetween(agreed, 2, 7)
    self.assertAlmostEqual(float(state.effective_size), agreed, 4)
    self.assertAlmostEqual(float(state.mean_cosine), (
      cosines.sum() - 8) / 56, 5)

  def test_groups_decide_by_themselves(self):
    grads = {'agree': jnp.float32([[1., 0], [1., .1]]),
             'disagree': jnp.float32([[1., 0], [-1., .1]])}
    tx = gradiv.aggregate_by_agreement(
      0.5, 'workers', num_workers=2,
      layout=gradiv.Layout(groups=lambda path: path[0].key))
    update, state = by_workers(grads, tx)
    np.testing.assert_allclose(update['agree'], [1., .05], 1e-6)
    np.testing.assert_array_equal(update['disagree'], [0, 0])
    np.testing.assert_array_equal(state.num_agreed, [2, 0])
    np.testing.assert_array_equal(state.weights, [[.5, .5], [0, 0]])
    self.assertTrue(bool(state.ready))
    self.assertEqual(int(state.num_empty), 0)

  def test_steps_without_agreement_are_counted(self):
    tx = gradiv.aggregate_by_agreement(0.5, 'workers')
    grads = jnp.float32([[1., 0], [-1., 0]])
    state = tx.init(grads[0])
    step = gradiv.map_workers(
      lambda g, s: tx.update(g, s), 'workers', in_axes=(0, None),
      out_axes=None)
    for scale in ([1, 1], [1, -1], [1, 1]):
      _, state = step(grads * jnp.float32(scale)[:, None], state)
    self.assertEqual(int(state.num_empty), 2)
    self.assertEqual(int(state.count), 3)

  def test_a_zero_anchor_does_not_veto(self):
    grads = np.float32([[0, 0], [1, 1], [1, 1.1], [1, .9]])
    tx = gradiv.aggregate_by_agreement(0.5, 'workers')
    update, state = helpers.step_of(tx)(grads, tx.init(grads[0]))
    np.testing.assert_allclose(update, [1, 1], 1e-6)
    self.assertEqual(int(state.num_agreed), 3)
    tx = gradiv.accumulate_by_agreement(0.5, num_micro_steps=4)
    state = tx.init(jnp.zeros(2))
    for g in grads:
      update, state = tx.update(g, state)
    np.testing.assert_allclose(update, [1, 1], 1e-6)

  @pytest.mark.slow
  def test_leaving_one_out_does_not_cancel(self):
    for length in (1e3, 1e5, 1e7):
      grads = np.float32([[length, 0], [.3, .4]])
      for tau, agreed in ((0.39, 0), (0.41, 2)):
        for combine in ('running_mean', 'leave_one_out'):
          rule = weightings.agreement(tau, combine=combine)
          weights = rule(grads @ grads.T)
          self.assertEqual(np.count_nonzero(weights), agreed, (length, tau))


if __name__ == '__main__':
  absltest.main()
