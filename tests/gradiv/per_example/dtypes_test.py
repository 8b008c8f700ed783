"""Statistics of examples in half, single and double precision."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from jax.sharding import Mesh, PartitionSpec as P

from gradiv import per_example
from tests import helpers
from tests.gradiv.per_example import reference
from tests.gradiv.per_example.case import Draw, square


def penalized(p, e):
  """Two dense layers on a sequence, and what all examples have in common."""
  return (square(jnp.tanh(e['x'] @ p['w']) @ p['v'] - e['y'])
          + 0.5 * jnp.sum(jnp.square(p['w'])) + jnp.sum(jnp.sin(p['c'])))


def penalized_case(dtype=np.float32):
  draw = Draw('penalized')
  params = {'w': draw(12, 16), 'v': draw(16, 2), 'c': draw(3)}
  batch = {'x': draw.batch(2, 12), 'y': draw.batch(2, 2)}
  return jax.tree.map(lambda x: np.asarray(x, dtype), (params, batch))


class DtypesTest(absltest.TestCase):

  def test_a_first_chunk_that_is_short(self):
    examples = np.float32(np.arange(57 * 32768).reshape(57, 32768) % 7)
    _, squares, _ = per_example.example_sq_norms(
      lambda w, x: jnp.sum(w * x))(jnp.ones(32768), examples)
    np.testing.assert_allclose(squares, np.sum(examples**2, 1), 1e-5)

  def test_many_chunks_of_bfloat16_add_up(self):
    """A sum in bfloat16 would stop growing at 256 of its summands."""
    n = 600
    params = {'w': jnp.ones((4, 3), jnp.bfloat16),
              's': jnp.ones(3, jnp.bfloat16)}

    def loss_fn(p, e):
      return jnp.sum((e @ p['w'] + jnp.sin(p['s'])).astype(jnp.float32))

    with reference.little_room():
      _, grads, _ = reference.quick_jit(
        per_example.example_moments(loss_fn, microbatch_size=1)
      )(params, jnp.ones((n, 4), jnp.bfloat16))
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    np.testing.assert_allclose(np.float32(grads['w']), 1, eps)
    np.testing.assert_allclose(np.float32(grads['s']), np.cos(1), 2 * eps)

  def test_sums_of_float16_do_not_overflow(self):
    """No more than their mean does."""
    loss, grads, _ = jax.jit(per_example.example_moments(
      lambda p, e: jnp.sum(jnp.sin(p) * e)))(
        jnp.zeros(4, jnp.float16), jnp.full((60, 4), 3000, jnp.float16))
    self.assertEqual(loss.dtype, jnp.float16)
    self.assertEqual(float(loss), 0)
    np.testing.assert_array_equal(grads, np.full(4, 3000, np.float16))

  def test_the_mean_of_bfloat16_is_no_more_than_rounded(self):
    """1/60 in bfloat16 is too large by 0.4 %."""
    def loss_fn(w, e):
      return jnp.sum((e @ w).astype(jnp.float32))

    _, grads, moments = jax.jit(per_example.example_moments(loss_fn))(
      jnp.zeros((2, 3), jnp.bfloat16), jnp.ones((60, 2), jnp.bfloat16))
    np.testing.assert_array_equal(np.float32(grads), 1)
    self.assertEqual(float(moments.sq_norm_of_mean), 6)
    self.assertLess(float(moments.mean_sq_deviation), 1e-5)

  @pytest.mark.slow
  def test_double_precision(self):
    """To 1e-14."""
    with helpers.double_precision():
      params, batch = penalized_case(np.float64)
      weights = np.arange(5) / 3
      losses, rows = reference.gradients(penalized, params, batch)
      truth = reference.Truth(losses, rows, tolerance=1e-14)
      loss, grads, moments = per_example.example_moments(penalized)(
        params, batch)
      truth.check_mean_loss(loss)
      truth.check_sum(jax.tree.leaves(grads), np.full(5, 0.2))
      truth.check_moments(moments)
      with reference.little_room():
        _, squares, combine = per_example.example_sq_norms(penalized)(
          params, batch)
      truth.check_squares(squares)
      truth.check_sum(jax.tree.leaves(combine(weights)), weights)
      with reference.little_room():
        gram = per_example.example_gram(penalized)(params, batch)[1]
      truth.check_gram(gram)

  @pytest.mark.slow
  def test_numbers_of_numpy_are_cast_without_a_warning(self):
    params, batch = penalized_case(np.float64)
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      with reference.little_room():
        _, squares, combine = per_example.example_sq_norms(penalized)(
          params, batch)
        grads = combine(np.ones(5))
    truth = reference.Truth(*reference.gradients(penalized, params, batch))
    truth.check_squares(squares)
    truth.check_sum(jax.tree.leaves(grads), np.ones(5))

  def test_strict_promotion_is_that_of_the_loss(self):
    """The engine adds up bfloat16 in float32, which strict would refuse."""
    loss_fn = lambda p, e: jnp.sum(jnp.sin(e @ p).astype(jnp.float32))
    p, e = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((6, 4), jnp.bfloat16)

    def total(make):
      *_, combine = make(loss_fn)(p, e)
      return combine(jnp.ones(6))

    with jax.numpy_dtype_promotion('strict'):  # which counts while tracing
      jax.eval_shape(per_example.example_moments(loss_fn), p, e)
      for make in (per_example.example_sq_norms, per_example.example_gram):
        self.assertEqual(
          jax.eval_shape(lambda make=make: total(make)).dtype, jnp.bfloat16)
      with self.assertRaisesRegex(ValueError, 'strict'):
        per_example.example_moments(lambda p, e: loss_fn(p, e) + jnp.sum(
          p * jnp.ones(3)))(p, e)

  def test_products_have_the_precision_that_the_user_asked_for(self):
    def loss_fn(p, e):
      return square(jnp.tanh(jnp.dot(e, p, precision='highest')))

    for room in (reference.little_room, contextlib.nullcontext):
      with room():
        text = str(jax.make_jaxpr(lambda p, e: per_example.example_moments(
          loss_fn)(p, e)[1])(jnp.ones((4, 3)), jnp.ones((6, 2, 4))))
      self.assertEqual(text.count('= dot_general['),
                       text.count('precision=(Precision.HIGHEST,'))

  @pytest.mark.slow
  def test_in_a_shard_map_of_the_user(self):
    """In loops, and for common values, where types tell what varies."""
    params, batch = penalized_case()
    batch = jax.tree.map(lambda x: x[[0, 1, 2, 3, 4, 0, 1, 2]], batch)
    mesh = Mesh(np.array(jax.devices()[:4]), ('workers',))

    def run(params, batch):
      moments = [per_example.example_moments(
        penalized, axis_name='workers', microbatch_size=size)(params, batch)
        for size in (1, None)]
      squares, grams = [of(penalized, axis_name='workers')(params, batch)[1]
                        for of in (per_example.example_sq_norms,
                                   per_example.example_gram)]
      return moments, squares, grams

    with reference.little_room():
      both, squares, grams = reference.quick_jit(jax.shard_map(
        run, mesh=mesh, in_specs=(P(), P('workers')),
        out_specs=(P(), P('workers'), P('workers'))))(params, batch)
    truth = reference.Truth(*reference.gradients(penalized, params, batch))
    for loss, grads, moments in both:
      truth.check_mean_loss(loss)
      truth.check_sum(jax.tree.leaves(grads), np.full(8, 1 / 8))
      truth.check_moments(moments)
    truth.check_squares(squares)
    for k in range(4):
      mine = slice(2 * k, 2 * k + 2)
      truth.of(mine).check_gram(grams[mine])


if __name__ == '__main__':
  absltest.main()
