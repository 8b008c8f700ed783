"""In which precision statistics of examples are taken."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from gradiv import per_example
from tests import helpers
from tests.gradiv.per_example import reference


class PrecisionTest(absltest.TestCase):

  def test_bfloat16_in_small_batches(self):
    """The error does not grow with how many sums are added up."""
    rng, n = np.random.default_rng(0), 256
    cast = lambda x: jnp.asarray(x, jnp.bfloat16)
    params = {'w': cast(rng.normal(size=(8, 8)) / 3), 'b': cast(np.zeros(8))}
    x = np.float32(1 + rng.normal(size=(n, 8)))

    def loss_fn(params, x):
      h = jnp.tanh(cast(x) @ params['w'] + params['b'])
      return jnp.sum(h).astype(jnp.float32)

    @reference.quick_jit
    def run(params, x):
      grads = [per_example.example_moments(loss_fn, microbatch_size=size)(
        params, x)[1] for size in (n, 16, 1)]
      return grads, jax.vmap(jax.grad(loss_fn), (None, 0))(params, x)

    grads, rows = run(params, x)
    for tree in grads:
      for name, row in rows.items():
        self.assertEqual(tree[name].dtype, jnp.bfloat16)
        mean = np.float64(row).mean(0)
        gap = np.linalg.norm(np.float64(tree[name]) - mean)
        # Rounded once, or once in all sums; n roundings would come to 20 eps.
        self.assertLess(gap / np.linalg.norm(mean),
                        float(jnp.finfo(jnp.bfloat16).eps))

  def test_double_precision(self):
    """Nothing but the Gram matrix, the count and the size is in float32."""
    rng, n = np.random.default_rng(0), 7
    draw = lambda *shape: rng.normal(size=shape)
    params = {'embed': draw(6, 4), 'kernel': draw(3, 4, 4), 'w': draw(4, 5)}
    batch = {'tokens': rng.integers(0, 6, (n, 5)), 'y': draw(n, 5)}
    weights = draw(n)

    def loss_fn(params, example):
      h = params['embed'][example['tokens']]
      h = jnp.tanh(jax.lax.conv_general_dilated(
        h[None], params['kernel'], (1,), 'SAME',
        dimension_numbers=('NXC', 'XIO', 'NXC'))[0])
      return jnp.sum(jnp.square(h @ params['w'] - example['y'][None])) + (
        0.1 * jnp.sum(params['w']**2))

    def run(params, batch):
      with reference.little_room():
        _, squares, combine = per_example.example_sq_norms(loss_fn)(
          params, batch)
      return (*per_example.example_moments(loss_fn)(params, batch), squares,
              combine(weights), per_example.example_moments(
                loss_fn, microbatch_size=1)(params, batch)[1],
              reference.gradients(loss_fn, params, batch))

    with helpers.double_precision():
      loss, grads, moments, squares, total, again, expected = (
        reference.quick_jit(run)(params, batch))
    truth = reference.Truth(*expected, tolerance=1e-13)
    self.assertEqual(truth.dtypes, [np.float64] * 3)
    truth.check_mean_loss(loss)
    truth.check_moments(moments)
    np.testing.assert_allclose(squares, np.sum(truth.rows**2, 1), 1e-12)
    for tree in (grads, again):
      truth.check_sum(jax.tree.leaves(tree), np.full(n, 1 / n))
    truth.check_sum(jax.tree.leaves(total), weights)


if __name__ == '__main__':
  absltest.main()
