"""What is measured on single examples, against their gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments.gradient_diversity import task, tracking
from experiments.gradient_diversity.batches import coverage
from tests.experiments.gradient_diversity.small import SMALL


def _moments(grads):
  """Compute ‖ḡ‖² and (1/n) Σ ‖g_i − ḡ‖² of gradients [n, ...] in float64."""
  flat = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1)
                         for x in jax.tree.leaves(grads)], 1)
  return np.sum(flat.mean(0)**2), np.sum(flat.var(0))


class ExampleTest(parameterized.TestCase):

  @parameterized.parameters(64, 16)
  @pytest.mark.slow
  def test_whole_set_against_the_gradient_of_each_example(self, size):
    config = dataclasses.replace(SMALL, eval_batch_size=size)
    problem = task.Problem(config)
    params = problem.model.init(jax.random.key(0))
    examples = {name: x[:64] for name, x in problem.arrays.items()}

    def gradient(image, label):
      batch = {'image': image[None], 'label': label[None]}
      return jax.grad(problem.loss)(params, batch, None)

    grads = jax.vmap(gradient)(examples['image'], examples['label'])
    seen = jax.jit(problem.evaluate_exactly)(examples, params)
    for layer in ('dense_0', 'out'):
      signal, noise = _moments(grads[layer])
      np.testing.assert_allclose(
        seen[f'exact_sq_norm/{layer}'], signal, 1e-5)
      np.testing.assert_allclose(seen[f'exact_variance/{layer}'], noise, 1e-5)
    signal, noise = _moments(grads)
    np.testing.assert_allclose(seen['exact_sq_norm'], signal, 1e-5)
    np.testing.assert_allclose(seen['exact_variance'], noise, 1e-5)
    np.testing.assert_allclose(
      seen['diversity'] * 64, 1 + noise / signal, 1e-5)
    for name, value in problem.evaluate(examples, params).items():
      np.testing.assert_allclose(seen[name], value, 1e-6)

  @pytest.mark.slow
  def test_pooled_moments_are_those_of_all_examples(self):
    grads = jax.random.normal(jax.random.key(1), (4, 3, 5)) + 0.5

    def worker(g):
      within = gradiv.Moments(
        jnp.float32(3), jnp.float32(1), jnp.sum(g.mean(0)**2),
        jnp.sum(g.var(0)))
      mean = g.mean(0)
      moments = tracking.pool(
        within, gradiv.worker_moments(mean, 'workers'), 'workers')
      tx = tracking.track_examples('workers', decay=0.9)
      updates, state = tx.update(
        tracking.Measured(mean, within), tx.init(mean))
      # A step that is not finite leaves the averages alone.
      _, after = tx.update(
        tracking.Measured(mean * jnp.nan, within), state)
      return moments, updates, gradiv.read_moments(after).average

    moments, updates, average = jax.vmap(
      worker, axis_name='workers', out_axes=(None, 0, None))(grads)
    np.testing.assert_array_equal(updates, grads.mean(1))
    signal, noise = _moments(grads.reshape(12, 5))
    np.testing.assert_allclose(
      [moments.num_gradients, moments.batch_size, moments.sq_norm_of_mean,
       moments.mean_sq_deviation], [12, 1, signal, noise], 1e-5)
    # Unbiased: the deviation over n − 1.
    np.testing.assert_allclose(
      average, [signal - noise / 11, 12 / 11 * noise], 1e-5)

  def test_bands_are_as_wide_as_the_pairs_say(self):
    # ‖∇F‖² = 0, estimated from 12 gradients: by 2, by 3, and by 12 workers.
    grads = np.random.default_rng(0).normal(size=(20, 1000, 12, 6))

    def spread(workers):
      means = grads.reshape(20, 1000, workers, -1, 6).mean(3)
      square = np.sum(means.mean(2)**2, -1)
      noise = np.sum(means.var(2, ddof=1), -1)
      return np.std(square - noise / workers, 1)

    for workers in (2, 3):
      config = dataclasses.replace(
        SMALL, num_workers=workers, reference_batch_size=12,
        batch_sizes=(12, 24), train_examples=48)
      ratio = spread(workers) / spread(12)
      error = np.std(ratio, ddof=1) / np.sqrt(20)
      self.assertLess(error, 0.02)
      self.assertLess(abs(
        np.mean(ratio) - coverage.predicted_band_ratio(config)),
        4 * error)


if __name__ == '__main__':
  absltest.main()
