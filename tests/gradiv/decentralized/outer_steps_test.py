"""Outer steps: torchft's values for Streaming DiLoCo, fragments, and state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from experiments.cost import collectives
from gradiv import decentralized
from tests.gradiv.decentralized.runs import N

# From torchft's tests of Streaming DiLoCo: parameters after steps 0 to 15, by
# (delay, blend). They start at 1; gradient 2, inner learning rate 1, outer SGD
# with rate 2, H = 6, two fragments.
ORACLE = {
  (0, 0.0): (
    [1, -1, -3, -11, -13, -15, -17, -19, -21, -35, -37, -39, -41, -43, -45,
     -59],
    [1, -1, -3, -5, -7, -9, -23, -25, -27, -29, -31, -33, -47, -49, -51, -53]),
  (0, 0.5): (
    [1, -1, -3, -8, -10, -12, -14, -16, -18, -24.5, -26.5, -28.5, -30.5, -32.5,
     -34.5, -40.25],
    [1, -1, -3, -5, -7, -9, -17, -19, -21, -23, -25, -27, -32, -34, -36, -38]),
  (1, 0.0): (
    [1, -1, -3, -7, -9, -11, -13, -15, -17, -27, -29, -31, -33, -35, -37, -47],
    [1, -1, -3, -5, -7, -9, -19, -21, -23, -25, -27, -29, -39, -41, -43, -45]),
  (1, 0.5): (
    [1, -1, -3, -6, -8, -10, -12, -14, -16, -21.5, -23.5, -25.5, -27.5, -29.5,
     -31.5, -35.75],
    [1, -1, -3, -5, -7, -9, -15, -17, -19, -21, -23, -25, -29, -31, -33, -35]),
}
ALONE = list(range(1, -30, -2))


class OracleTest(parameterized.TestCase):

  def fragments(self, backend, outer=optax.sgd(2.0), **options):
    """Return the two fragments along 15 steps, [workers, steps] each."""
    tx = optax.chain(optax.sgd(1.0), decentralized.mix_by_outer_step(
      outer, 6, 'workers', num_fragments=2, **options))

    def run(x):
      x = {'first': x, 'second': x}

      def step(carry, _):
        x, state = carry
        grads = jax.tree.map(lambda x: jnp.full_like(x, 2), x)
        updates, state = tx.update(grads, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

      return jax.lax.scan(step, (x, tx.init(x)), None, length=15)[1]

    path = gradiv.map_workers(run, 'workers', backend=backend)(
      jnp.ones((2, 1)))
    return [np.concatenate([np.ones((2, 1)), path[name][..., 0]], 1)
            for name in ('first', 'second')]

  @parameterized.parameters(*ORACLE)
  def test_exactly(self, delay, blend):
    for backend in ('vmap', 'shard_map'):
      seen = self.fragments(backend, delay=delay, blend=blend)
      for x, expected in zip(seen, ORACLE[delay, blend]):
        np.testing.assert_array_equal(x, [expected] * 2)

  @parameterized.parameters(0, 2)
  def test_a_blend_of_one_leaves_workers_alone(self, delay):
    for x in self.fragments('vmap', delay=delay, blend=1.0):
      np.testing.assert_array_equal(x[:, :15], [ALONE[:15]] * 2)

  @parameterized.named_parameters(
    ('a_function', lambda tree: jax.tree_util.tree_map_with_path(
      lambda path, _: path[0].key == 'first', tree)),
    ('a_tree', {'first': True, 'second': False}))
  def test_the_outer_optimizer_may_mask_by_path(self, mask):
    outer = optax.chain(
      optax.masked(optax.set_to_zero(), mask), optax.sgd(2.0))
    first, second = self.fragments('vmap', outer)
    # θ stays at 1, so every outer step returns to it.
    np.testing.assert_array_equal(
      first[0], [1, -1, -3, 1, -1, -3, -5, -7, -9, 1, -1, -3, -5, -7, -9, 1])
    np.testing.assert_array_equal(second[0], ORACLE[0, 0.0][1])

  def test_fragments_are_of_about_equal_size(self):
    sizes = lambda params, count: [
      sum(x.size for x in jax.tree.leaves(state)) for state in
      decentralized.mix_by_outer_step(
        optax.trace(0.9), 12, 'workers', num_fragments=count).init(
          [jnp.zeros(size) for size in params]).outer]
    self.assertEqual(sizes([60, 10, 10, 10, 10], 2), [60, 40])
    self.assertEqual(sizes([10, 10, 10, 10, 60], 2), [40, 60])
    self.assertEqual(sizes([5] * 12, 3), [20, 20, 20])
    self.assertEqual(sizes([0, 3, 3], 2), [3, 3])
    self.assertEqual(sizes([7], 2), [0, 7])

  def test_fragments_by_path(self):
    first, second = self.fragments(
      'vmap', fragment_of=lambda path: int(path[0].key == 'first'))
    np.testing.assert_array_equal(second[0], ORACLE[0, 0.0][0])
    np.testing.assert_array_equal(first[0], ORACLE[0, 0.0][1])


class StateTest(parameterized.TestCase):

  def test_one_all_reduce_a_fragment(self):
    from jax.sharding import Mesh, PartitionSpec as P
    tx = gradiv.diloco(4, 'workers', num_fragments=2, delay=1)
    x = {'a': jnp.zeros((N, 300)), 'b': jnp.zeros((N, 300))}
    row = lambda tree: jax.tree.map(lambda x: x[0], tree)

    def step(x, state):
      x, state = row(x), row(state)
      updates, state = tx.update(x, state, x)
      return jax.tree.map(lambda x: x[None], (updates, state))

    mesh = Mesh(np.array(jax.devices()[:N]), ('workers',))
    text = jax.jit(jax.shard_map(
      step, mesh=mesh, in_specs=P('workers'), out_specs=P('workers'),
      check_vma=False)).lower(
        x, gradiv.replicate(tx.init(row(x)), N)).compile().as_text()
    # And one number: how many workers are finite.
    self.assertEqual(collectives.collectives(text), [('all-reduce', 301)] * 2)

  def test_half_precision_keeps_a_wide_anchor(self):
    tx = gradiv.diloco(2, 'workers', delay=1)
    state = tx.init({'w': jnp.ones(3, jnp.bfloat16)})
    self.assertEqual(state.anchor['w'].dtype, jnp.float32)
    self.assertEqual(state.pending['w'].dtype, jnp.float32)

  def test_an_optimizer_that_keeps_parameters_shares_no_buffer(self):
    keep = optax.GradientTransformation(
      lambda params: params, lambda u, s, p=None: (u, s))
    params = {'w': jnp.ones(3)}
    state = decentralized.mix_by_outer_step(keep, 2, 'workers').init(params)
    leaves = jax.tree.leaves((params, state))
    self.assertLen({x.unsafe_buffer_pointer() for x in leaves}, len(leaves))


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(period=0), 'period=0'), (dict(axis_name=''), "axis_name=''"),
    (dict(num_fragments=4), 'num_fragments=4.*period=6'),
    (dict(num_fragments=2, delay=3), 'delay=3.*=3'),
    (dict(delay=-1), 'delay=-1'), (dict(blend=1.5), 'blend=1.5'))
  def test_bad_arguments_are_refused_at_construction(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      decentralized.mix_by_outer_step(
        optax.sgd(1.0), **dict(period=6, axis_name='workers') | options)

  def test_fragments_out_of_range_are_refused_at_init(self):
    tx = gradiv.diloco(4, 'workers', num_fragments=2,
                       fragment_of=lambda path: 2)
    with self.assertRaisesRegex(ValueError, r'fragment_of.*\[2\]'):
      tx.init({'w': jnp.ones(2)})


if __name__ == '__main__':
  absltest.main()
