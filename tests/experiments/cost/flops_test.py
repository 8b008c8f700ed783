"""Tests of the count of FLOPs, against XLA's where no loop hides any."""

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax import lax

from experiments.cost import flops


def kernel_gradient(x, delta):
  """Differentiate <delta, conv(x, kernel)> with respect to a 3x3 kernel."""
  kernel = jnp.zeros((3, 3, x.shape[-1], delta.shape[-1]))
  stride = x.shape[1] // delta.shape[1]
  return jax.vjp(lambda k: lax.conv_general_dilated(
    x, k, (stride, stride), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC')), kernel)[1](delta)


class ProductsTest(parameterized.TestCase):

  @parameterized.named_parameters(
    ('matrices', lambda x, y: x @ y, (3, 4), (4, 5)),
    ('batched', lambda x, y: jnp.einsum('bij,bkj->bik', x, y),
     (2, 3, 4), (2, 5, 4)),
    ('padded', lambda x, k: lax.conv(x, k, (1, 1), 'SAME'),
     (2, 3, 8, 8), (4, 3, 3, 5)),
    ('strided', lambda x, k: lax.conv(x, k, (2, 3), 'SAME'),
     (2, 3, 8, 8), (4, 3, 3, 5)),
    ('with_holes', lambda x, k: lax.conv_transpose(x, k, (2, 2), 'SAME'),
     (2, 5, 5, 3), (3, 3, 3, 4)),
    ('dilated', lambda x, k: lax.conv_with_general_padding(
      x, k, (1, 1), ((1, 2), (0, 3)), None, (2, 2)),
     (2, 3, 8, 8), (4, 3, 3, 2)),
    ('grouped', lambda x, k: lax.conv_general_dilated(
      x, k, (1, 1), 'SAME', feature_group_count=3), (2, 6, 5, 5), (9, 2, 3, 3)),
    ('kernel_gradient', kernel_gradient, (2, 8, 8, 3), (2, 8, 8, 4)),
    ('strided_kernel_gradient', kernel_gradient, (2, 8, 8, 3), (2, 4, 4, 4)),
    ('kernel_gradients_of_examples',
     jax.vmap(lambda x, d: kernel_gradient(x[None], d[None])),
     (2, 8, 8, 3), (2, 8, 8, 4)),
  )
  def test_as_many_as_xla_counts(self, fn, *shapes):
    args = [jnp.ones(shape) for shape in shapes]
    wanted = jax.jit(fn).lower(*args).cost_analysis()['flops']
    self.assertEqual(flops.flops_traced(fn, *args), wanted)

  def test_nested(self):
    x = jnp.ones((4, 4))
    square = jax.jit(lambda x: x @ x)  # 128 FLOPs
    self.assertEqual(flops.flops_traced(square, x), 128)
    count = lambda fn: flops.flops_traced(fn, x)
    self.assertEqual(count(jax.value_and_grad(
      lambda x: square(x).sum())), 3 * 128)
    self.assertEqual(count(lambda x: lax.map(square, jnp.stack([x] * 5))),
                     5 * 128)
    self.assertEqual(count(lambda x: lax.scan(
      lambda x, _: (lax.fori_loop(0, 3, lambda _, x: square(x), x), None),
      x, length=2)), 6 * 128)
    self.assertEqual(count(lambda x: lax.cond(
      x[0, 0] > 0, lambda x: square(square(x)), square, x)), 2 * 128)
    # Of unknown length: once.
    self.assertEqual(count(lambda x: lax.while_loop(
      lambda x: (x < 9).all(), square, x)), 128)
    self.assertEqual(count(lambda x: x * x + 1), 0)
    # Not what nothing needs, inside of a function either.
    both = jax.jit(lambda x: (square(x), x @ x.T))
    self.assertEqual(count(lambda x: both(x)[0]), 128)


if __name__ == '__main__':
  absltest.main()
