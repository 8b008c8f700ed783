"""The rules of the fourth paper: filters, controls, optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from experiments.agreement_filtering import rules
from tests import helpers


class RulesTest(parameterized.TestCase):

  def test_blind_filter_draws_sizes_by_stage(self):
    sizes = jnp.float32([[5, 0, 5, 0, 0], [0, 0, 0, 0, 10]])
    rule = rules.random_subset(sizes, every=100)
    gram, present = jnp.eye(4), jnp.ones(4, bool)

    def step(count, key):
      weights, count = rule.step(gram, present, count, key)
      return count, weights

    _, weights = jax.lax.scan(
      step, rule.init(4), jax.random.split(jax.random.key(0), 200))
    weights = np.asarray(weights)
    helpers.assert_mean(weights[:100].sum(1), 0.5)
    self.assertEqual(set(np.unique(weights[:100])), {0., 0.5})
    # Whom it lets through is drawn evenly.
    for worker in weights[:100].T:
      helpers.assert_mean(worker > 0, 0.25)
    np.testing.assert_array_equal(weights[100:], 0.25)

  def test_blind_filter_lets_nothing_through_that_is_not_finite(self):
    rule = rules.random_subset(jnp.float32([[0, 0, 1, 0]]), 1)
    present, step = jnp.array([True, False, True]), jax.jit(rule.step)
    for i in range(5):
      weights, _ = step(
        jnp.eye(3), present, rule.init(3), jax.random.key(i))
      np.testing.assert_array_equal(weights, [.5, 0, .5])

  def test_optimizer_stands_still_after_enough_updates(self):
    rule = rules.build('equal_updates', {'max_updates': 3}, every=1)
    tx = rules.make_optimizer(
      0.1, rule, key=jax.random.key(0),
      axis_name='workers', num_workers=2, momentum=0.9, weight_decay=0.1)
    step = helpers.step_of(optax.GradientTransformation(
      tx.init, lambda g, s: tx.update(g, s, jnp.ones(3))))
    state, moved = tx.init(jnp.ones(3)), []
    for _ in range(5):
      updates, state = step(np.ones((2, 3), 'f'), state)
      moved.append(bool(jnp.any(updates != 0)))
    self.assertEqual(moved, [True] * 3 + [False] * 2)
    read = rules.read(state)
    self.assertEqual(read['sizes'].tolist(), [2, 0, 3])
    self.assertAlmostEqual(float(read['cosine']), 5, 4)

  def test_the_optimizer_is_that_of_the_paper(self):
    """Decay is added to the gradient, before Nesterov's momentum."""
    tx = rules.make_optimizer(
      0.1, rules.plain_mean(), key=jax.random.key(0), axis_name='workers',
      num_workers=2, momentum=0.9, weight_decay=0.01)
    rng = np.random.default_rng(0)
    p = velocity = np.zeros(4)
    params, state = jnp.zeros(4), tx.init(jnp.zeros(4))
    step = gradiv.map_workers(
      lambda g, s, p: tx.update(g, s, p), 'workers', in_axes=(0, None, None),
      out_axes=None)
    for _ in range(4):
      g = rng.normal(size=(2, 4)).astype('f')
      updates, state = step(g, state, params)
      params = optax.apply_updates(params, updates)
      slope = g.mean(0) + 0.01 * p
      velocity = 0.9 * velocity + slope
      p = p - 0.1 * (slope + 0.9 * velocity)
      np.testing.assert_allclose(params, p, 1e-4, 1e-6)


if __name__ == '__main__':
  absltest.main()
