"""The first paper, small: records, summary, figures, and their formulas."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from experiments import (
  diversity_report, diversity_training, gradient_diversity,
)

SMALL = gradient_diversity.Config(
  workdir='unset', train_examples=64, batch_sizes=(16, 32),
  replications=(1., 2.), learning_rates=(0.1, 0.4), passes=2, num_seeds=2,
  num_twins=2, reference_batch_size=16, num_workers=4, target_loss=2.0)


class RunTest(absltest.TestCase):

  def test_records_summary_and_figures(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = dataclasses.replace(
      SMALL, workdir=str(folder / 'run'), data_dir=str(folder / 'data'))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      summary = gradient_diversity.run(config)
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
      'diversity.png', 'loss_ratio.png', 'speed.png', 'stability.png'])
    for figure in figures:
      with Image.open(figure) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)
    # Again: nothing is trained, all is drawn from the records.
    stamps = [log.stat().st_mtime_ns for log in logs]
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(gradient_diversity.run(config), summary)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)
    run = diversity_report.tracked(config)
    # Of the last record: the tracked total is near that of the whole set.
    ratio = run['variance'][..., -1] / run['exact_variance'][..., -1]
    self.assertTrue(np.all((ratio > 0.2) & (ratio < 5)), ratio)
    np.testing.assert_allclose(
      run['diversity'] * 64,
      1 + run['exact_variance'] / run['exact_sq_norm'], 1e-3)


class FormulaTest(parameterized.TestCase):

  def test_evaluations_to(self):
    passes = np.array([0., 1., 2., 4.])
    count = lambda loss, target: float(diversity_report.evaluations_to(
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
        diversity_report, 'sweep', return_value=(np.arange(3.), loss)):
      self.assertEqual(diversity_report.tuned_rates(config), {(1., 16): 0.1})

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
        diversity_report, 'speeds', return_value=measured):
      predicted = diversity_report.predicted_speeds(SMALL, run)
    self.assertAlmostEqual(predicted[1., 16], 120)
    self.assertAlmostEqual(predicted[2., 32], 120 * (32 + rho) / (b + rho))

  def test_distances(self):
    params = {'a': jnp.array([[1., 2.], [3., 0.], [1., 2.], [-3., 0.]]),
              'b': jnp.zeros((4, 1, 2))}
    np.testing.assert_allclose(
      diversity_training.distances(params)['distance'], [0, np.sqrt(2)])
    apart = {'a': jnp.array([[3., 0.], [0., 4.]])}
    np.testing.assert_allclose(
      diversity_training.distances(apart)['distance'], [1.])


if __name__ == '__main__':
  absltest.main()
