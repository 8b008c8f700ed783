"""The plain mean."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers


class MeanTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_is_the_mean(self, backend, axis, workers):
    rng = np.random.default_rng(4)
    grads = {'w': jnp.float32(rng.normal(0.3, 1, (workers, 5, 3))),
             'scale': jnp.float32(rng.normal(size=workers))}
    tx = gradiv.aggregate_by_mean(axis)
    updates = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], grads, tx.init(grads), axis, backend)
    mean = jax.tree.map(lambda g: np.asarray(g, np.float64).mean(0), grads)
    helpers.assert_close(updates, mean, 1e-5, 1e-7)

  def test_workers_of_one_device_copy_nothing(self, n=32, size=1 << 16):
    tx = gradiv.aggregate_by_mean('workers')
    step = jax.vmap(lambda g: tx.update(g, tx.init(g))[0],
                    axis_name='workers', out_axes=None)
    grads = np.float32(np.random.default_rng(1).normal(size=(n, size)))
    program = jax.jit(step).lower(grads).compile()
    self.assertLess(program.memory_analysis().temp_size_in_bytes, 4 * size)
    grads[3, 2] = np.nan
    np.testing.assert_allclose(
      program(grads), np.delete(grads, 3, 0).mean(0), 1e-5, 1e-6)

  def test_numpy_arrays_outside_of_jit(self):
    grads = np.float32([[1, 2], [np.nan, 0], [3, 4]])
    tx = gradiv.aggregate_by_mean('workers')
    state = tx.init(grads[0])
    found = jax.vmap(
      lambda g: tx.update(g, state)[0], axis_name='workers')(grads)
    np.testing.assert_array_equal(found[0], [2, 3])

  def test_bfloat16_rounds_once(self):
    grads = {'layer': jnp.asarray(
      np.r_[256., np.ones(255)], jnp.bfloat16)}
    tx = gradiv.aggregate_by_mean('workers')
    mean = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g))[0],
                            axis_name='workers', out_axes=None))(grads)
    # In bfloat16, 256 + 1 is 256: the sum would stay there.
    self.assertEqual(mean['layer'], jnp.bfloat16(511 / 256))


if __name__ == '__main__':
  absltest.main()
