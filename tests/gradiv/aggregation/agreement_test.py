"""Filtering workers and micro-steps, and standing still where none agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from tests import helpers

RNG = np.random.default_rng(7)
STREAMED = tuple(c for c in weightings.COMBINE if c != 'leave_one_out')


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


class AccumulateTest(parameterized.TestCase):
  """Micro-steps on one device decide and average as workers do."""

  @parameterized.product(combine=STREAMED, count_aware=(False, True),
                         dtype=(jnp.float32, jnp.bfloat16))
  def test_equals_the_workers(self, combine, count_aware, dtype):
    options = dict(combine=combine, count_aware=count_aware)
    tx = gradiv.accumulate_by_agreement(
      0.9, num_micro_steps=8, **options)
    workers = gradiv.aggregate_by_agreement(0.9, 'workers', **options)
    update, agreed = jax.jit(tx.update), set()
    state = tx.init(row(gradients(dtype=dtype), 0))
    for lean in (0., 0.2, 0.4, 3.):
      grads = gradients(lean=lean, dtype=dtype)
      for i in range(8):
        self.assertFalse(bool(state.ready) and i > 0)
        result, state = update(row(grads, i), state)
        if i < 7:
          for leaf in jax.tree.leaves(result):
            np.testing.assert_array_equal(leaf, 0)
      expected, wanted = by_workers(grads, workers)
      self.assertEqual(bool(state.ready), bool(wanted.ready))
      # An anchor that nobody joins is one of one, and weighs nothing.
      self.assertEqual(int(state.num_agreed), max(1, int(wanted.num_agreed)))
      rtol = 1e-5 if dtype == jnp.float32 else 0.01
      helpers.assert_close(result, expected, rtol, of_largest=rtol)
      agreed.add(int(state.num_agreed))
    self.assertGreater(len(agreed), 1)
    self.assertEqual(int(state.count), 4)

  def test_leaves_out_what_is_not_finite(self):
    grads = gradients(lean=3.)
    grads['bias'] = grads['bias'].at[0, 2].set(jnp.nan).at[3, 0].set(jnp.inf)
    tx = gradiv.accumulate_by_agreement(1., num_micro_steps=8)
    state = tx.init(row(grads, 0))
    for i in range(8):
      result, state = tx.update(row(grads, i), state)
    expected, wanted = by_workers(
      grads, gradiv.aggregate_by_agreement(1., 'workers'))
    helpers.assert_close(result, expected, 1e-5, of_largest=1e-5)
    self.assertEqual(int(state.num_left_out), 2)
    self.assertEqual(int(wanted.num_left_out), 2)

  def test_nothing_agrees_counts_as_empty_and_moves_nothing(self):
    tx = optax.chain(
      gradiv.accumulate_by_agreement(0.5, num_micro_steps=2),
      gradiv.skip_zero_updates(optax.adamw(0.1, weight_decay=0.1)))
    params = jnp.ones(2)
    state = tx.init(params)
    for g in ([1., 0.], [-1., 0.]):
      updates, state = tx.update(jnp.array(g), state, params)
      np.testing.assert_array_equal(updates, 0)
    self.assertEqual(int(optax.tree.get(state, 'num_empty')), 1)
    self.assertEqual(int(state[1][0].count), 0)  # Adam's

  def test_threshold_is_a_schedule_of_rounds(self):
    tx = gradiv.accumulate_by_agreement(
      lambda count: jnp.where(count < 1, 2., 0.1), num_micro_steps=2)
    state, ready = tx.init(jnp.zeros(2)), []
    for g in ([1., 0.], [0., 1.]) * 2:
      _, state = tx.update(jnp.array(g), state)
      ready.append(bool(state.ready))
    self.assertEqual(ready, [False, True, False, False])

  def test_memory_of_one_gradient_more(self):
    grads = jax.ShapeDtypeStruct((300_000,), jnp.float32)
    for combine, trees in (('running_mean', 1), ('halving', 1), ('first', 2)):
      tx = gradiv.accumulate_by_agreement(1., 4, combine=combine)
      state = jax.eval_shape(tx.init, grads)
      size = sum(x.size for x in jax.tree.leaves(state))
      self.assertBetween(size, trees * grads.size, trees * grads.size + 20)
      program = jax.jit(tx.update, donate_argnums=1).lower(
        grads, state).compile()
      self.assertLess(
        program.memory_analysis().temp_size_in_bytes, 4.04 * grads.size)

  @parameterized.parameters(
    (dict(combine='leave_one_out'), "combine='leave_one_out'.*at once"),
    (dict(num_micro_steps=0), 'num_micro_steps=0'),
    (dict(max_cosine_distance=3.), 'max_cosine_distance=3.0'),
    (dict(min_agreed=0), 'min_agreed=0'),
  )
  def test_bad_arguments(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.accumulate_by_agreement(
        **dict(max_cosine_distance=1., num_micro_steps=2) | options)


class StateTest(parameterized.TestCase):
  """The state tells what was decided."""

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
      0.5, 'workers', groups=lambda path: path[0].key, num_workers=2)
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


class SkipTest(parameterized.TestCase):

  @parameterized.parameters(
    (optax.sgd(0.1, momentum=0.9, nesterov=True),),
    (optax.adamw(optax.linear_schedule(0.1, 0., 10), weight_decay=0.1),),
    (optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),),
  )
  def test_stands_still_exactly_where_all_is_zero(self, inner):
    tx = gradiv.skip_zero_updates(inner)
    params = {'a': jnp.ones(3), 'b': jnp.ones(())}
    state, plain = tx.init(params), inner.init(params)
    update, reference = jax.jit(tx.update), jax.jit(inner.update)
    for i in range(6):
      g = jax.tree.map(lambda p: jnp.full(p.shape, float(i % 3)), params)
      updates, new = update(g, state, params)
      if i % 3 == 0:
        helpers.assert_same(new, state)
        helpers.assert_same(updates, jax.tree.map(jnp.zeros_like, params))
      else:
        expected, plain = reference(g, plain, params)
        helpers.assert_same((updates, new), (expected, plain))
      state = new

  def test_one_element_that_is_not_zero_moves_all(self):
    tx = gradiv.skip_zero_updates(optax.add_decayed_weights(1.))
    params = {'a': jnp.ones(3), 'b': jnp.ones(2)}
    g = {'a': jnp.zeros(3), 'b': jnp.array([0., 1e-30])}
    updates, _ = tx.update(g, tx.init(params), params)
    np.testing.assert_array_equal(updates['a'], 1)

  def test_extra_arguments_pass(self):
    tx = gradiv.skip_zero_updates(optax.scale_by_backtracking_linesearch(
      max_backtracking_steps=2))
    value = lambda p: jnp.sum(p**2)
    params = jnp.ones(2)
    updates, _ = tx.update(
      -params, tx.init(params), params, value=value(params), grad=2 * params,
      value_fn=value)
    self.assertLess(float(value(params + updates)), float(value(params)))

  @parameterized.parameters('vmap', 'pmap', 'shard_map')
  def test_collectives_inside_meet(self, backend):
    """A worker whose own update is zero does not leave the others waiting."""
    tx = gradiv.skip_zero_updates(gradiv.aggregate_by_mean('workers'))
    grads = np.float32([[0.], [0.], [3.], [5.]])
    update = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], grads, tx.init(grads[0]),
      backend=backend, out_axes=0, devices=jax.devices()[:4])
    np.testing.assert_array_equal(update.ravel(), [0, 0, 2, 2])


if __name__ == '__main__':
  absltest.main()
