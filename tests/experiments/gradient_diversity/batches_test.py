"""The first paper, small: records, summary, figures, and their formulas."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

import gradiv
from experiments.gradient_diversity import (
  __main__ as main,
  config as gradient_diversity,
  task,
  tracking,
)
from experiments.gradient_diversity.batches import analysis, study
from gradiv.diversity import intervals

SMALL = gradient_diversity.Config(
  workdir='unset', train_examples=64, batch_sizes=(16, 32),
  replications=(1., 2.), learning_rates=(0.1, 0.4), passes=2, num_seeds=2,
  num_twins=2, reference_batch_size=16, num_workers=4, target_loss=2.0)


def _moments(grads):
  """Compute ‖ḡ‖² and (1/n) Σ ‖g_i − ḡ‖² of gradients [n, ...] in float64."""
  flat = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1)
                         for x in jax.tree.leaves(grads)], 1)
  return np.sum(flat.mean(0)**2), np.sum(flat.var(0))


class RunTest(absltest.TestCase):

  def test_records_summary_and_figures(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = dataclasses.replace(
      SMALL, workdir=str(folder / 'run'), data_dir=str(folder / 'data'))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      summary = main.run(config)
    logs = sorted((folder / 'run').rglob('metrics.jsonl'))
    self.assertLen(logs, 5)  # a sweep and twins for each size, and one more
    self.assertLen(summary['cells'], 4)
    for cell in summary['cells']:
      self.assertIn(cell['learning_rate'], config.learning_rates)
      self.assertGreater(cell['loss_ratio'][0], 0)
    for word in ('loss ratio', 'distance of twin runs', 'figure: '):
      self.assertIn(word, out.getvalue())
    figures = sorted((folder / 'run' / 'figures').iterdir())
    self.assertEqual([f.name for f in figures], [
      'collapse.png', 'diversity.png', 'loss_ratio.png', 'stability.png'])
    for figure in figures:
      with Image.open(figure) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)
    # Again: nothing is trained, all is drawn from the records.
    stamps = [log.stat().st_mtime_ns for log in logs]
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(main.run(config), summary)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)
    run = analysis.tracked(config)
    # Of the last record: the tracked total is near that of the whole set.
    ratio = run['variance'][..., -1] / run['exact_variance'][..., -1]
    self.assertTrue(np.all((ratio > 0.2) & (ratio < 5)), ratio)
    np.testing.assert_allclose(
      run['diversity'] * 64,
      1 + run['exact_variance'] / run['exact_sq_norm'], 1e-3)
    for name in ('exact_sq_norm', 'exact_variance'):
      np.testing.assert_allclose(
        sum(run[f'{name}/{layer}'] for layer in ('dense_0', 'out')),
        run[name], 1e-5)
    self.assertEqual(list(summary['layers']),
                     ['dense_0', 'out', 'whole network'])
    self.assertAlmostEqual(
      summary['layers']['whole network']['2'],
      float(1 / np.mean(1 / (64 * run['diversity'][1, :, -1]))), delta=0.1)
    # What the batch's examples say lies near the whole set, too.
    ratio = run['example_variance'][..., -1] / run['exact_variance'][..., -1]
    self.assertTrue(np.all((ratio > 0.2) & (ratio < 5)), ratio)
    for word in ('B_S of each layer', '16 examples'):
      self.assertIn(word, out.getvalue())


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
      return moments, updates, intervals.average(after.averages)

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

  def test_bands_are_as_wide_as_the_pairs_tell(self):
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
        np.mean(ratio) - analysis.predicted_band_ratio(config)),
        4 * error)


class FormulaTest(parameterized.TestCase):

  def test_evaluations_to(self):
    passes = np.array([0., 1., 2., 4.])
    count = lambda loss, target: float(analysis.evaluations_to(
      target, passes, np.asarray(loss), 100))
    falling = np.exp(-passes)
    self.assertAlmostEqual(count(falling, np.exp(-1.5)), 150)
    self.assertAlmostEqual(count(falling, np.exp(-3)), 300)
    self.assertEqual(count(falling, 2.0), 0)
    self.assertEqual(count(falling, 1e-9), np.inf)
    self.assertEqual(count([3., np.inf, np.inf, np.inf], 0.1), np.inf)
    # The first time counts, also where the loss rises again.
    self.assertAlmostEqual(count([1., np.exp(-2), 5., 5.], np.exp(-1)), 50)

  def test_tuned_rates_leave_out_what_diverged(self):
    loss = np.array([[[[1., 0.5, 0.4]] * 2,
                      [[1., 0.1, 0.1], [1., np.inf, np.inf]]]])
    config = dataclasses.replace(
      SMALL, batch_sizes=(16,), replications=(1.,))
    with absltest.mock.patch.object(
        analysis, 'sweep', return_value=(np.arange(3.), loss)):
      self.assertEqual(analysis.tuned_rates(config), {(1., 16): 0.1})

  def test_prediction_at_a_constant_noise_scale(self):
    rho, b = 40., 16
    passes = np.arange(9.)
    run = {
      'passes': passes, 'loss': np.tile(4 * np.exp(-passes), (2, 2, 1)),
      'exact_variance': np.full((2, 2, 9), 2 * rho),
      'exact_sq_norm': np.full((2, 2, 9), 2.)}
    measured = {(r, s): np.array([100., 140.])
                for r in SMALL.replications for s in SMALL.batch_sizes}
    with absltest.mock.patch.object(
        analysis, 'speeds', return_value=measured):
      predicted = analysis.predicted_speeds(SMALL, run)
    self.assertAlmostEqual(predicted[1., 16], 120)
    self.assertAlmostEqual(predicted[2., 32], 120 * (32 + rho) / (b + rho))

  def test_distances(self):
    params = {'a': jnp.array([[1., 2.], [3., 0.], [1., 2.], [-3., 0.]]),
              'b': jnp.zeros((4, 1, 2))}
    np.testing.assert_allclose(
      study.distances(params)['distance'], [0, np.sqrt(2)])
    apart = {'a': jnp.array([[3., 0.], [0., 4.]])}
    np.testing.assert_allclose(
      study.distances(apart)['distance'], [1.])


if __name__ == '__main__':
  absltest.main()
