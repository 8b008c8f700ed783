"""The optimizer is skipped on the steps whose update is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from tests import helpers


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

  def test_standing_still_is_decided_by_all_slices(self):
    chain = lambda sharded: optax.chain(
      gradiv.aggregate_by_agreement(1., 'workers', sharded=sharded),
      gradiv.skip_zero_updates(
        optax.sgd(1., momentum=0.9),
        axis_name='workers' if sharded else None))

    def both(gs):
      def steps(tx, start):
        state, total = tx.init(start), start
        for g in gs:
          updates, state = tx.update(g, state)
          total = total + updates
        return total

      sliced = steps(chain(True), aggregation.slice_leaves(jnp.zeros(4),
        'workers'))
      return (aggregation.gather_leaves(sliced, jnp.zeros(4), 'workers'),
              steps(chain(False), jnp.zeros(4)))

    # The second step moves the first slice alone; the third nothing.
    gs = jnp.float32([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    sliced, whole = gradiv.map_workers(
      both, 'workers', in_axes=(0,), out_axes=None)(jnp.stack([gs, gs]))
    np.testing.assert_allclose(sliced, whole, 1e-6)
    np.testing.assert_allclose(whole, [-2.9, -2.9, -1.9, -1.9], 1e-6)


if __name__ == '__main__':
  absltest.main()
