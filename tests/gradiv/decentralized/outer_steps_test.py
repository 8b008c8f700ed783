"""Outer steps: the values of Streaming DiLoCo's oracle, and what reduces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from experiments import compiled
from tests.gradiv.decentralized.gossip_runs import N, chain, gradient, train

# Of torchft's tests of Streaming DiLoCo: gradient 2, inner learning rate 1,
# outer SGD with rate 2, H = 6, two fragments, all from 1; after steps 0 to 15,
# by (delay, blend).
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
RATE = 0.2


class OracleTest(parameterized.TestCase):

  def fragments(self, backend, **options):
    """The two fragments along 15 steps, of each worker."""
    tx = optax.chain(optax.sgd(1.0), gradiv.mix_by_outer_step(
      optax.sgd(2.0), 6, 'workers', num_fragments=2, **options))

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

  @parameterized.parameters(0, 1, 2)
  def test_nothing_is_taken_over_from_the_others(self, delay):
    for x in self.fragments('vmap', delay=delay, blend=1.0):
      np.testing.assert_array_equal(x[:, :15], [ALONE[:15]] * 2)

  def test_fragments_are_of_about_equal_size(self):
    sizes = lambda params, count: [
      sum(x.size for x in jax.tree.leaves(state)) for state in
      gradiv.mix_by_outer_step(
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


class ReductionsTest(parameterized.TestCase):

  def test_each_step_is_synchronous_sgd(self):
    x = np.zeros((N, 3))
    for _ in range(10):
      x = np.broadcast_to((x - RATE * gradient(x)).mean(0), x.shape)
    for last in (gradiv.local_sgd(1, 'workers'), gradiv.diloco(
        1, 'workers', learning_rate=1.0, momentum=0.0)):
      seen, _ = train(chain(RATE, last), 10)
      np.testing.assert_allclose(seen, x, 1e-5, 1e-6)

  def reference(self, steps, period, outer):
    """Local SGD, with ``outer(t, Δ) -> step`` in NumPy."""
    x = anchor = np.zeros((N, 3))
    for t in range(1, steps + 1):
      x = x - RATE * gradient(x)
      if t % period == 0:
        anchor = anchor - outer((anchor - x).mean(0))
        x = anchor
    return x

  def test_local_sgd(self):
    seen, _ = train(chain(RATE, gradiv.local_sgd(3, 'workers')), 11)
    np.testing.assert_allclose(
      seen, self.reference(11, 3, lambda delta: delta), 1e-5, 1e-6)

  def test_slow_momentum(self):
    u = np.zeros(3)

    def outer(delta):
      nonlocal u
      # Wang et al.: u ← β u + Δ/γ, x ← x − a γ u.
      u = 0.6 * u + delta / RATE
      return 0.9 * RATE * u

    seen, _ = train(chain(RATE, gradiv.mix_by_slow_momentum(
      3, 'workers', momentum=0.6, learning_rate=0.9)), 12)
    np.testing.assert_allclose(
      seen, self.reference(12, 3, outer), 1e-5, 1e-6)

  def test_diloco(self):
    trace = np.zeros(3)

    def outer(delta):
      nonlocal trace
      trace = 0.9 * trace + delta
      return 0.7 * (delta + 0.9 * trace)

    expected = self.reference(14, 4, outer)
    for backend in ('vmap', 'pmap', 'shard_map'):
      seen, state = train(
        chain(RATE, gradiv.diloco(4, 'workers')), 14, backend,
        devices=None if backend == 'vmap' else jax.devices()[:N])
      np.testing.assert_allclose(seen, expected, 1e-5, 1e-6)
      for leaf in jax.tree.leaves(state[-1].outer):
        np.testing.assert_array_equal(leaf, leaf[:1].repeat(N, 0))

  def test_one_worker_looks_ahead(self):
    # Zhang et al.'s Lookahead: k steps ahead, then a share of the way.
    x = slow = np.zeros((1, 3))
    for t in range(1, 10):
      x = x - RATE * (x - 1)
      if t % 3 == 0:
        x = slow = slow + 0.5 * (x - slow)
    seen, _ = train(chain(RATE, gradiv.mix_by_outer_step(
      optax.sgd(0.5), 3, 'workers')), 9, centres=np.ones((1, 3)),
      curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)

  def test_several_axes(self):
    seen, _ = train(chain(RATE, gradiv.local_sgd(3, ('devices', 'virtual'))),
                    11, 'shard_map', ('devices', 'virtual'),
                    devices=jax.devices()[:2])
    np.testing.assert_allclose(
      seen, self.reference(11, 3, lambda delta: delta), 1e-5, 1e-6)


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
    self.assertEqual(compiled.collectives(text), [('all-reduce', 300)] * 2)

  def test_half_precision_keeps_a_wide_anchor(self):
    tx = gradiv.diloco(2, 'workers', delay=1)
    state = tx.init({'w': jnp.ones(3, jnp.bfloat16)})
    self.assertEqual(state.anchor['w'].dtype, jnp.float32)
    self.assertEqual(state.pending['w'].dtype, jnp.float32)

  def test_the_anchor_is_no_alias_of_the_parameters(self):
    params = {'w': jnp.ones(3)}
    state = gradiv.local_sgd(2, 'workers').init(params)
    self.assertNotEqual(state.anchor['w'].unsafe_buffer_pointer(),
                        params['w'].unsafe_buffer_pointer())


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(period=0), 'period=0'), (dict(axis_name=''), "axis_name=''"),
    (dict(num_fragments=4), 'num_fragments=4: must be a divisor of period=6'),
    (dict(num_fragments=2, delay=3), 'delay=3: must be below .*=3'),
    (dict(delay=-1), 'delay=-1'), (dict(blend=1.5), 'blend=1.5'))
  def test_at_construction(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.mix_by_outer_step(
        optax.sgd(1.0), **dict(period=6, axis_name='workers') | options)

  def test_rates(self):
    for rate in (-3.0, float('nan')):
      with self.assertRaisesRegex(ValueError, f'learning_rate={rate}'):
        gradiv.diloco(4, 'workers', learning_rate=rate)

  def test_others(self):
    with self.assertRaisesRegex(ValueError, 'momentum=1.0'):
      gradiv.diloco(4, 'workers', momentum=1.0)
    with self.assertRaisesRegex(ValueError, 'momentum=-1'):
      gradiv.mix_by_slow_momentum(4, 'workers', momentum=-1)
    tx = gradiv.diloco(4, 'workers', num_fragments=2,
                       fragment_of=lambda path: 2)
    with self.assertRaisesRegex(ValueError, r'\[2\]: must be from 0 to 1'):
      tx.init({'w': jnp.ones(2)})


if __name__ == '__main__':
  absltest.main()
