"""Squared norms: of rows, of several arrays, and the loops that they take."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv import per_example
from gradiv.per_example._engine import row_norms, squares, trace


def draw(*shape):
  return np.float32(np.random.default_rng(0).normal(size=shape))


class SquaresTest(parameterized.TestCase):

  @parameterized.parameters((1, 40), (5, 3), (60, 68), (8, 600), (90, 3))
  def test_norms_of_rows(self, *shape):
    rows = draw(*shape)
    found = row_norms.sq_norms(rows)
    np.testing.assert_allclose(
      found, np.sum(np.float64(rows)**2, 1), rtol=1e-6)

  def test_rows_do_not_touch_each_other(self):
    rows = draw(4, 6)
    rows[1, 2], rows[3, 0] = np.inf, np.nan
    found = row_norms.sq_norms(rows)
    np.testing.assert_array_equal(
      np.isfinite(found), [True, False, True, False])

  def test_norm_of_several_arrays(self):
    """Small ones side by side, eight of one size, a large one, two dtypes."""
    arrays = [*np.split(draw(9 * 7), 9), draw(3, 5), draw(70, 80), draw(1),
              draw(2, 2).astype(jnp.bfloat16)]
    expected = sum(np.sum(np.float64(x)**2) for x in arrays)
    np.testing.assert_allclose(
      squares.of_arrays([*map(jnp.asarray, arrays)]), expected, rtol=1e-6)

  def test_small_layers_take_no_sums_of_their_own(self):
    """Each would be compiled to three loops, as each layer differs in size."""
    def num_sums(num_layers):
      sizes = range(40, 41 + num_layers)
      params = [draw(a, b) for a, b in zip(sizes[:-1], sizes[1:])]

      def loss_fn(params, x):
        for w in params:
          x = jnp.tanh(x @ w)
        return x[0]

      return jax.jit(per_example.example_moments(loss_fn)).lower(
        params, draw(8, 40)).as_text().count('stablehlo.reduce(')

    self.assertEqual(num_sums(3), num_sums(6))


class ConvolutionTest(absltest.TestCase):

  def test_transposed_ones_sum_over_the_small_side(self):
    """Each of 4 x 4 pixels with 3 features goes to 3 x 3 x 2 of 8 x 8 x 2."""
    def loss_fn(kernel, x):
      return jnp.sum(jnp.sin(jax.lax.conv_transpose(
        x[None], kernel, (2, 2), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))))

    traced = trace.Trace(
      loss_fn, False, draw(3, 3, 3, 2), draw(5, 4, 4, 3))
    (like,) = traced.leaves[0].like_terms
    self.assertEqual(like.sizes, (1, 16, 18, 3))
    self.assertEqual(like.num_extra, 16 * 18)

  def test_patches_are_written_in_long_rows(self):
    """XLA would turn them around, [32 * 32, 7 * 7 * 3], if it saw a need."""
    def loss_fn(kernel, x):
      return jnp.sum(jnp.sin(jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))))

    text = jax.jit(per_example.example_moments(loss_fn)).lower(
      draw(7, 7, 3, 16), draw(16, 64, 64, 3)).compile().as_text()
    self.assertRegex(text, r'f32\[[\d,]*147,1024\]')
    self.assertNotRegex(text, r'f32\[[\d,]*1024,147\]')


if __name__ == '__main__':
  absltest.main()
