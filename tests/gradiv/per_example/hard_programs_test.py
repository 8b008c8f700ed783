"""Programs that are deep, that branch, and that run in unusual modes of jax."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, PartitionSpec as P

from gradiv import per_example
from gradiv.per_example._engine import costs, trace
from tests.gradiv.per_example import reference

RNG = np.random.default_rng(0)
draw = lambda *shape: np.float32(RNG.normal(size=shape))
net = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2)


def leaf_of(loss_fn, params, batch):
  (leaf,) = trace.Trace(loss_fn, False, params, batch).leaves
  return leaf


class CuttingTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_weight_used_six_hundred_times(self):
    def loss_fn(w, x):
      for _ in range(600):
        x = jnp.tanh(x @ w)
      return jnp.sum(x)

    leaf = leaf_of(loss_fn, draw(4, 4), draw(4, 4))
    self.assertEqual(leaf.kind, 'products')
    self.assertLen(leaf.terms, 600)

  def test_many_paths_of_one_product_are_joined(self):
    def loss_fn(w, x):
      for _ in range(4):
        square = w @ w.T
        w = 3 * w + (2 * square @ square - square) @ w
      return net(w, x)

    with reference.little_room():
      terms = leaf_of(loss_fn, draw(4, 4), draw(5, 3, 4)).terms
    self.assertLessEqual(len(terms), 4)
    self.assertIn('paths', [op.name for term in terms for op in term.ops])

  def test_equal_places_are_counted_once(self):
    def loss_fn(w, x):
      for _ in range(10):
        w = (w + w.T) / 2
      return net(w, x)

    w, x = draw(4, 4), draw(5, 3, 4)
    self.assertLessEqual(len(leaf_of(loss_fn, w, x).terms), 4)
    reference.check(loss_fn, w, x)


class ModesTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_no_tracer_leaks(self):
    with jax.checking_leaks():
      for make in (per_example.example_moments, per_example.example_sq_norms,
                   per_example.example_gram):
        jax.block_until_ready(jax.jit(
          lambda w, x, make=make: make(net)(w, x)[1])(draw(4, 3), draw(5, 4)))

  @pytest.mark.slow
  def test_without_jit(self):
    w, x = draw(6, 3), draw(8, 40, 6)
    with jax.disable_jit():
      gram = per_example.example_gram(net)(w, x)[1]
    np.testing.assert_allclose(
      gram, per_example.example_gram(net)(w, x)[1], 1e-4, 1e-3)

  def test_complex_parameters(self):
    """They are measured as their two parts; gradients are those of jax."""
    def loss_fn(p, x):
      y = jnp.tanh(x @ p['w']) @ p['v']
      return jnp.sum(jnp.sin(y.real) + jnp.cos(y.imag))

    p = {'w': draw(4, 3) + 1j * draw(4, 3), 'v': draw(3, 2)}
    x, weights = draw(5, 6, 4), np.float32([1, 2, 0, -1, 3])

    @reference.quick_jit
    def run(p, x):
      with reference.little_room():
        _, mean, moments = per_example.example_moments(loss_fn)(p, x)
        _, squares, combine = per_example.example_sq_norms(loss_fn)(p, x)
        gram = per_example.example_gram(loss_fn)(p, x)[1]
      return (mean, combine(weights), moments, squares, gram,
              jax.vmap(jax.grad(loss_fn), (None, 0))(p, x))

    mean, mixed, moments, squares, gram, rows = run(p, x)
    flat = np.concatenate([np.asarray(part).reshape(5, -1) for part in (
      rows['w'].real, rows['w'].imag, rows['v'])], 1)
    largest = np.square(flat).sum(1).max()
    np.testing.assert_allclose(squares, np.square(flat).sum(1), 1e-5)
    np.testing.assert_allclose(gram, flat @ flat.T, 0, 1e-5 * largest)
    np.testing.assert_allclose(
      moments.sq_norm_of_mean, np.square(flat.mean(0)).sum(), 1e-5)
    for name, g in rows.items():
      np.testing.assert_allclose(mean[name], g.mean(0), 1e-4, 1e-5)
      np.testing.assert_allclose(
        mixed[name], np.tensordot(weights, g, 1), 1e-4, 1e-4)

  def test_devices_that_share_examples_may_communicate(self):
    """A net of which each device has some of the hidden units."""
    mesh = jax.make_mesh((2, 2), ('data', 'model'),
                         axis_types=(AxisType.Auto,) * 2)
    whole = lambda p, x: jnp.sum((jnp.tanh(x @ p['w']) @ p['v']) ** 2)
    loss_fn = lambda p, x: jnp.sum(jax.lax.psum(
      jnp.tanh(x @ p['w']) @ p['v'], 'model') ** 2)
    p, x = {'w': draw(6, 4), 'v': draw(4, 2)}, draw(8, 5, 6)
    lie = {'w': P(None, 'model'), 'v': P('model')}

    def run(p, x):
      loss, grads, moments = per_example.example_moments(
        loss_fn, axis_name='data')(p, x)
      _, squares, _ = per_example.example_sq_norms(
        loss_fn, axis_name='data')(p, x)
      return loss, grads, moments, squares

    loss, grads, moments, squares = jax.jit(jax.shard_map(
      run, mesh=mesh, in_specs=(lie, P('data')),
      out_specs=(P(), lie, P(), P('data'))))(p, x)
    truth = reference.Truth(*reference.gradients(whole, p, x))
    truth.check_mean_loss(loss)
    truth.check_sum(jax.tree.leaves(grads), np.full(8, 1 / 8))
    truth.check_moments(moments)
    truth.check_squares(squares)


class ChunksTest(absltest.TestCase):

  def test_a_prime_number_of_examples(self):
    """Seven examples, three and four at a time."""
    loss_fn = lambda p, x: net(jnp.sinh(p['w']), x) + net(p['v'], x)
    params, batch = {'w': draw(4, 3), 'v': draw(4, 2)}, draw(7, 5, 4)
    self.assertEqual(costs.chunk(127, 2**15, platform='cpu'), (15, 16))
    # An accelerator shares its room with no other core.
    self.assertEqual(costs.chunk(127, 2**20, platform='gpu'), (15, 16))
    with mock.patch.object(costs, 'room', lambda platform=None: 24), (
        mock.patch.object(costs, 'WHOLE', 0)):
      self.assertEqual(costs.chunk(7, 12), (3, 4))
      reference.check(loss_fn, params, batch, gram_room=reference.little_room)

  def test_the_device_that_runs_decides(self):
    """Compiled for a CPU where another device is the default one."""
    def chunks(program):
      return str(jax.jit(lambda w, x: per_example.example_moments(
        lambda w, x: net(jnp.sinh(w), x))(w, x)[2]).lower(
          *program).as_text()).count('stablehlo.while')

    large = (jax.ShapeDtypeStruct((600, 600), jnp.float32),
             jax.ShapeDtypeStruct((16, 700, 600), jnp.float32))
    expected = chunks(large)
    self.assertGreater(expected, 0)
    with mock.patch.object(jax, 'default_backend', lambda: 'gpu'):
      self.assertEqual(chunks(large), expected)


if __name__ == '__main__':
  absltest.main()
