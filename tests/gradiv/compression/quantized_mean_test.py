"""A mean in 8 and 4 bits: no bias, few bytes, and the right moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from experiments.cost import collectives as lib
from gradiv.compression import _packing
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import compiled

RNG = np.random.default_rng(14)
KEY = jax.random.key(6)
STEPS = 3000


def sample(workers, dtype=jnp.float32):
  draw = lambda *shape: jnp.asarray(
    RNG.normal(0.3, 1, (workers, *shape)), dtype)
  return {'kernel': draw(7, 5), 'scale': draw(), 'none': None,
          'empty': draw(0)}


@functools.cache
def make(num_bits, axis='workers', **options):
  options = {'block_size': 8} | options
  return gradiv.aggregate_by_quantized_mean(
    num_bits, axis, key=KEY, **options)


def step(tx, grads, axis='workers', backend='vmap'):
  return helpers.step_of(tx, axis, backend)(
    grads, tx.init(jax.tree.map(lambda g: g[0], grads)))


def many_steps(tx, grads, axis='workers', backend='vmap'):
  """The updates and the states of many steps on the same gradients."""
  def run(g, state):
    def one(state, _):
      update, state = tx.update(g, state)
      return state, (update, state.moments)

    return jax.lax.scan(one, state, None, length=STEPS)[1]

  like = jax.tree.map(lambda g: g[0], grads)
  return helpers.on_workers(run, grads, tx.init(like), axis, backend)


class MeanTest(parameterized.TestCase):

  def test_a_tree_without_elements(self):
    tx = gradiv.aggregate_by_quantized_mean(
      8, 'workers', key=jax.random.key(0))
    grads = jnp.zeros((8, 0))
    mean, _ = jax.vmap(
      lambda g: tx.update(g, tx.init(g)), axis_name='workers',
      out_axes=None)(grads)
    self.assertEqual(mean.shape, (0,))

  @parameterized.parameters((8, 'vmap'), (4, 'shard_map'))
  @pytest.mark.slow
  def test_no_bias(self, num_bits, backend):
    grads = sample(8)
    updates, moments = many_steps(make(num_bits), grads, backend=backend)
    jax.tree.map(lambda u, g: helpers.assert_mean(u, np.asarray(
      g, np.float64).mean(0), rounding=1e-6), updates, grads)
    self.assertGreater(updates['kernel'].std(0).min(), 0)
    # ‖ḡ‖² and the spread without bias, the mean of ‖g_i‖² exactly.
    exact = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), grads)
    helpers.assert_mean(moments.sq_norm_of_mean, exact.sq_norm_of_mean)
    helpers.assert_mean(moments.mean_sq_deviation, exact.mean_sq_deviation)
    np.testing.assert_allclose(
      moments.sq_norm_of_mean + moments.mean_sq_deviation,
      float(exact.sq_norm_of_mean + exact.mean_sq_deviation), 1e-5)
    if num_bits == 4:  # That of the rounded mean is too large.
      of_rounded = sum(jnp.sum(u**2, tuple(range(1, u.ndim)))
                       for u in jax.tree.leaves(updates))
      with self.assertRaises(AssertionError):
        helpers.assert_mean(of_rounded, exact.sq_norm_of_mean)

  def test_error_of_a_step(self):
    """By less than a level each way, of the largest in its block."""
    grads = {'w': jnp.float32(RNG.normal(size=(8, 4000)))}
    for num_bits in (8, 4):
      update, _ = step(make(num_bits, block_size=256), grads)
      mean = np.asarray(grads['w']).mean(0)
      error = np.abs(np.asarray(update['w']) - mean)
      level = np.abs(grads['w']).max() / _packing.LARGEST[num_bits]
      self.assertLess(error.max(), 2 * level)
      self.assertLess(np.sqrt(np.mean(error**2)), 0.5 * level)

  @pytest.mark.slow
  def test_the_same_numbers_on_every_backend(self):
    for num_bits, axis, workers in (
        (8, 'workers', 8), (4, ('devices', 'virtual'), 16)):
      grads, expected = sample(workers), None
      for backend in ('vmap', 'pmap', 'shard_map'):
        tx = make(num_bits, axis)
        seen = step(tx, grads, axis, backend)
        expected = expected or seen
        helpers.assert_close(seen, expected, 1e-5, 1e-6)

  def test_steps_draw_apart(self):
    # That workers do shows in ‖ḡ‖², of the products of their errors.
    grads = sample(4)
    tx = make(4)
    first, state = step(tx, grads)
    second, _ = helpers.step_of(tx)(grads, state)
    self.assertTrue((first['kernel'] != second['kernel']).any())

  def test_one_worker_sends_and_rounds_nothing(self):
    grads = sample(1)
    update, state = step(make(4), grads)
    helpers.assert_same(
      jax.tree.map(np.asarray, update), jax.tree.map(lambda g: g[0], grads))
    self.assertEqual(state.moments.num_gradients, 1)
    self.assertTrue(np.isnan(gradiv.estimate(state.moments).variance))

  def test_equal_gradients_and_zeros(self):
    ones = jax.tree.map(lambda g: jnp.full_like(g, 0.7), sample(4))
    update, _ = step(make(4), ones)
    helpers.assert_close(
      update, jax.tree.map(lambda g: g[0], ones), 1e-6)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    update, state = step(make(8), zeros)
    helpers.assert_same(update, jax.tree.map(lambda g: g[0], zeros))
    self.assertEqual(state.moments.sq_norm_of_mean, 0)

  def test_gradients_that_are_not_finite_are_left_out(self):
    grads = sample(4)
    bad = grads | {'kernel': grads['kernel'].at[2, 1, 1].set(jnp.nan)}
    for num_bits in (8, 4):
      tx = make(num_bits)
      update, state = step(tx, bad)
      self.assertEqual(state.num_left_out, 1)
      self.assertTrue(np.isnan(state.moments.sq_norm_of_mean))
      rest = np.delete(np.asarray(grads['kernel']), 2, 0).mean(0)
      # Two roundings, by a third of a level of what is at most 3.5.
      error = np.asarray(update['kernel']) - rest
      self.assertLess(np.sqrt(np.mean(error**2)),
                      1.2 / _packing.LARGEST[num_bits])

  def test_bfloat16(self):
    grads = sample(4, jnp.bfloat16)
    update, _ = step(make(8), grads)
    self.assertEqual(update['kernel'].dtype, jnp.bfloat16)
    np.testing.assert_allclose(
      np.float32(update['kernel']), np.float32(grads['kernel']).mean(0),
      atol=0.1)

  @parameterized.parameters(
    (dict(num_bits=2), 'num_bits'), (dict(num_bits=8.), 'num_bits'),
    (dict(axis=''), 'axis_name'),
    (dict(block_size=7), 'block_size'), (dict(block_size=0), 'block_size'),
    (dict(batch_size=0), 'batch_size'),
    (dict(layout=gradiv.Layout(groups=gradiv.by_layer)), 'groups'))
  def test_invalid_arguments(self, options, name):
    with self.assertRaisesRegex(ValueError, name):
      make.__wrapped__(**(dict(num_bits=8) | options))


class StateTest(parameterized.TestCase):

  def test_donating_it_harms_neither_the_state_nor_the_callers_arrays(self):
    key, size = jax.random.key(3), jnp.float32(4)
    tx = gradiv.aggregate_by_quantized_mean(
      8, 'workers', key=key, batch_size=size)
    grads = sample(4)
    run = jax.jit(jax.vmap(lambda g, s: tx.update(g, s), (0, None), (0, None),
                           axis_name='workers'), donate_argnums=1)
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    for _ in range(2):
      _, state = run(grads, state)
    self.assertEqual(state.moments.batch_size, size)
    jax.random.bits(key)  # still alive

  def test_batch_size_may_be_injected(self):
    tx = optax.inject_hyperparams(
      gradiv.aggregate_by_quantized_mean,
      static_args=('num_bits', 'block_size'))(
        num_bits=8, axis_name='workers', key=KEY,
        batch_size=lambda count: 2. * (1 + count))
    _, state = step(tx, sample(4))
    self.assertEqual(state.inner_state.moments.batch_size, 2)


class LayoutTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  @pytest.mark.slow
  def test_sharded_workers_in_a_shard_map_of_ones_own(self, check_vma):
    rows = {'kernel': jnp.float32(RNG.normal(size=(8, 5, 3))),
            'bias': jnp.float32(RNG.normal(size=(4, 9)))}
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'model'))
    tx = make(8, 'data', layout=gradiv.Layout(
      sharded_over='model', is_sharded=lambda path: path[-1].key == 'kernel'))
    update, state = jax.jit(jax.shard_map(
      lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=mesh,
      in_specs=({'kernel': P(('data', 'model')), 'bias': P('data')}, P()),
      out_specs=({'kernel': P('model'), 'bias': P()}, P()),
      check_vma=check_vma))(rows, tx.init(
        jax.tree.map(lambda g: g[0], rows)))
    whole = {'kernel': rows['kernel'].reshape(4, 10, 3), 'bias': rows['bias']}
    mean = jax.tree.map(lambda g: np.asarray(g).mean(0), whole)
    helpers.assert_close(
      jax.tree.map(np.asarray, update), mean, 0, atol=0.08)
    exact = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), whole)
    helpers.assert_close(state.moments, exact, 0.05)

  @pytest.mark.slow
  def test_shards_round_apart(self):
    """Where two shards hold the same numbers, their errors differ."""
    rows = {'w': jnp.repeat(jnp.float32(RNG.normal(size=(4, 40))), 2, 0)}
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'model'))
    tx = make(4, 'data', layout=gradiv.Layout(sharded_over='model'))
    update, _ = jax.jit(jax.shard_map(
      lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=mesh,
      in_specs=(P(('data', 'model')), P()), out_specs=(P('model'), P()),
      check_vma=False))(rows, tx.init({'w': rows['w'][0]}))
    one, other = update['w'].reshape(2, 40)
    self.assertTrue((one != other).any())

  def test_mean_over_an_axis_first(self):
    grads = sample(8)
    tx = make(8, 'slow', layout=gradiv.Layout(mean_over='fast'))
    seen = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads,
      tx.init(jax.tree.map(lambda g: g[0], grads)), ('slow', 'fast'),
      devices=jax.devices()[:4])
    means = jax.tree.map(lambda g: g.reshape(4, 2, *g.shape[1:]).mean(1),
                         grads)
    helpers.assert_close(seen, step(make(8), means), 1e-4, 1e-5)


class CompiledTest(parameterized.TestCase):

  @parameterized.product(wire=((8, 0.27), (4, 0.14)), shapes=(
    ((300, 1000), (1001,), (7, 11)),
    ((64, 32), (32,), (32, 10), (10,))))  # the network on digits
  @pytest.mark.slow
  def test_bytes_on_the_wire(self, wire, shapes):
    num_bits, fraction = wire
    params = [jnp.zeros(shape) for shape in shapes]
    program = compiled(gradiv.aggregate_by_quantized_mean(
      num_bits, 'workers', key=KEY), params).as_text()
    all_reduce = 2 * 7 / 8 * 4 * sum(x.size for x in params)
    self.assertLess(lib.bytes_sent(program, 8) / all_reduce, fraction)
    # Who is present [8], how many are not, the norms and the products.
    self.assertEqual([size for name, size in lib.collectives(program)
                      if name == 'all-reduce'], [8 + 3])

  def test_bytes_of_all_sizes(self):
    """As traced, which is what is compiled; with the mean's own flag."""
    for size in (2056, 2305, 70_001):
      params = jnp.zeros(size)
      sent = lambda tx: lib.bytes_traced(
        lambda g: tx.update(g, tx.init(g))[0], 8, params)
      plain = sent(gradiv.aggregate_by_mean('workers'))
      self.assertAlmostEqual(plain, 2 * 7 / 8 * 4 * (size + 1), 5)
      for num_bits, fraction in ((8, 0.27), (4, 0.14)):
        wire = sent(gradiv.aggregate_by_quantized_mean(
          num_bits, 'workers', key=KEY))
        flags = 2 * 7 / 8 * 4 * 11
        self.assertLess((wire - flags) / plain, fraction)

if __name__ == '__main__':
  absltest.main()
