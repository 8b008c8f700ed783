"""The study of mechanisms, small: records, tables, figures, their formulas."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from experiments.engine import signals
from experiments.gradient_diversity import (
  __main__ as main,
  config as gradient_diversity,
  task,
)
from experiments.gradient_diversity.mechanisms import (
  analysis,
  arms,
  study as mechanism_training,
)

SMALL = gradient_diversity.Config(
  workdir='unset', study='mechanisms', model='logistic', model_options='{}',
  train_examples=64,
  batch_sizes=(16, 32), learning_rates=(0.4, 1.6), passes=4, num_seeds=2,
  reference_batch_size=16, num_workers=2, drop_rates=(0., 0.5),
  noise_stddevs=(0.01,), num_levels=(2,), target_accuracies=(0.4, 0.5),
  least_steps=12, measured_examples=32, measured_batches=60, bits_workers=4,
  bits_seeds=2)


class RunTest(absltest.TestCase):

  @pytest.mark.slow
  def test_records_summary_and_figures(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = dataclasses.replace(
      SMALL, workdir=str(folder / 'run'), data_dir=str(folder / 'data'))
    # A part of the wires: each compiles a program of its own.
    few = [arm for arm in arms.wires()
           if arm.name in ('float32', 'top_10')]
    self.enterContext(absltest.mock.patch.object(
      arms, 'wires', lambda: few))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      summary = main.run(config)
    self.assertLen(summary['cells'], 4 * 2 * 2)
    for cell in summary['cells']:
      self.assertIn(cell['learning_rate'], config.learning_rates)
    # Three conventions of two mechanisms, two of the third.
    self.assertLen(summary['bounds'], 2 * 3 + 3 + 2)
    for cell in summary['bounds']:
      self.assertLess(abs(cell['off']), 4, cell)
    self.assertEqual([row['wire'] for row in summary['bits']],
                     [arm.name for arm in few])
    for row in summary['bits']:
      self.assertGreater(row['test'][0], 0.3)
    self.assertEqual(summary['bits'][0]['beyond_float32'], [0., 0.])
    for word in ('95 % intervals hold', 'plain mean', 'DropConnect p=0.5',
                 'over that of the plain mean', 'feedback', 'figure: '):
      self.assertIn(word, out.getvalue())
    for name in ('bounds', 'rounds', 'bits'):
      with Image.open(folder / 'run' / 'figures' / f'{name}.png') as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)
    # Again: nothing is trained or measured, all is drawn from the records.
    logs = [*(folder / 'run').rglob('metrics.jsonl'),
            folder / 'run' / 'bounds.json']
    stamps = [log.stat().st_mtime_ns for log in logs]
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(main.run(config), summary)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)


class ExampleTest(absltest.TestCase):

  @pytest.mark.slow
  def test_of_each_example_and_of_each_worker(self):
    """At a rate of 0 both are the plain mean; at 0.5 they are two things."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    runs = {}
    for per_example in (False, True):
      config = dataclasses.replace(
        SMALL, workdir=str(folder / str(per_example)), noise_stddevs=(),
        data_dir=str(folder / 'data'), per_example=per_example, num_levels=(),
        num_seeds=1, learning_rates=(0.4,))
      mechanism, = arms.mechanisms(config)
      problem = task.Problem(config)
      mechanism_training.train_mechanism(
        config, problem, mechanism, 16, signals.Stop())
      runs[per_example] = analysis.load(
        config, 'drop/batch_00016')['loss'][:, 0, 0]
    np.testing.assert_allclose(runs[True][0], runs[False][0], 1e-4)
    self.assertTrue((runs[True][1, 1:] != runs[False][1, 1:]).all())


class FormulaTest(parameterized.TestCase):

  def test_steps_to(self):
    step = np.array([0, 4, 8, 16])
    count = lambda accuracy, target: float(analysis.steps_to(
      target, step, np.asarray(accuracy)))
    self.assertEqual(count([0., 0.5, 0.9, 1.], 0.7), 6)
    self.assertEqual(count([0., 0.5, 0.9, 1.], 0.5), 4)
    self.assertEqual(count([0., 0.5, 0.4, 1.], 0.5), 4)
    self.assertEqual(count([0.8, 0.5, 0.4, 1.], 0.7), 0)
    self.assertEqual(count([0., 0.5, 0.9, 0.9], 0.95), np.inf)

  def cells(self, steps):
    """Cells of the plain mean and of p = 0.5, for one target."""
    return [
      {'mechanism': 'drop', 'strength': p, 'batch_size': size, 'target': 0.3,
       'steps': counts}
      for p, by_size in steps.items() for size, counts in by_size.items()]

  def test_time_and_best_batch(self):
    config = dataclasses.replace(
      SMALL, batch_sizes=(64, 256, 1024), reference_batch_size=64,
      target_accuracies=(0.3,))
    plain = {64: [400., 400.], 256: [150., 150.], 1024: [100., 100.]}
    # Fewer steps on the largest, and never there on the middle one.
    masked = {64: [400., 400.], 256: [150., None], 1024: [50., 60.]}
    cells = self.cells({0.: plain, 0.5: masked})
    times = analysis.times(config, cells, ('drop', 0.), 0.3, 16)
    np.testing.assert_array_equal(times[64], 400 * (16 + 32))
    np.testing.assert_array_equal(times[256], 150 * (16 + 128))
    best = lambda cost: analysis.best_batch(
      analysis.times(config, cells, ('drop', 0.), 0.3, cost))
    self.assertEqual([best(c) for c in (1, 64, 4096)], [64, 256, 1024])
    costs = analysis.fitting_costs(config, cells, 0.3)
    self.assertEqual({best(cost) for cost in costs}, {256})
    self.assertEqual([c for c in analysis.COMMUNICATION
                      if best(c) == 256], costs)
    self.assertNotIn(256, analysis.find(cells, ('drop', 0.5), 0.3))
    self.assertEqual(analysis.fitting_costs(config, cells, 0.4), [])
    rows = analysis.compare(config, cells, 0.3, 10**6)
    share = {row['strength']: row for row in rows
             if row['mechanism'] == 'drop'}
    self.assertEqual(share[0.5]['best_batch'], 1024)
    np.testing.assert_allclose(
      share[0.5]['share_of_plain'][0], 0.55, 1e-6)
    self.assertEqual(share[0.]['share_of_plain'], [1., 0.])
    self.assertEqual(share[0.5]['best_batches'], {'64': 0., '1024': 1.})

  def test_best_rates(self):
    inf = np.inf
    counts = np.array([[[9., 9.], [1., inf], [5., 7.]],
                       [[inf, inf], [inf, inf], [inf, 90.]],
                       [[inf, inf], [8., inf], [inf, 6.]]])
    np.testing.assert_array_equal(
      analysis.best_rates(counts), [2, 2, 2])

  def test_bits(self):
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    size = 2410
    bits = {arm.name: arm.bits(shapes, 8) for arm in arms.wires()}
    # And the count of gradients that are not finite.
    self.assertAlmostEqual(bits['float32'], 32 * (size + 1) / size, 5)
    self.assertBetween(bits['wire_8'], 8, 0.27 * 32)
    self.assertBetween(bits['wire_4'], 4, 0.14 * 32)
    self.assertAlmostEqual(
      bits['low_rank'], 32 * (64 + 32 + 32 + 32 + 10 + 10 + 9) / size, 5)
    # 205, 4, 32 and 1 numbers, with 11, 5, 9 and 4 bits for their places.
    self.assertAlmostEqual(
      bits['top_10'], (205 * 43 + 4 * 37 + 32 * 41 + 36) / size)
    self.assertAlmostEqual(bits['signs'], (size + 4 * 32) / size)


class FlagsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(study='both'), "--study='both'"),
    (dict(drop_rates=(0.5,)), 'the first 0'),
    (dict(drop_rates=(0., 1.)), 'below 1'),
    (dict(noise_stddevs=(0.,)), '--noise_stddevs'),
    (dict(num_levels=(0,)), '--num_levels'),
    (dict(target_accuracies=(0.9, 0.8)), 'rising'),
    (dict(target_accuracies=(1.1,)), '--target_accuracies'),
    (dict(least_steps=0), '--least_steps=0'),
    (dict(measured_batches=1), '--measured_batches=1'),
    (dict(measured_examples=65), '--train_examples=64'),
    (dict(batch_sizes=(32, 8)), 'rising'),
    (dict(batch_sizes=(16, 31)), '--num_workers=2'),
    (dict(bits_workers=5), '--bits_workers=5'))
  def test_bad_values(self, changed, message):
    with self.assertRaisesRegex(ValueError, message):
      dataclasses.replace(SMALL, **changed)

  def test_batches_need_not_divide_the_set(self):
    dataclasses.replace(SMALL, batch_sizes=(16, 100))


if __name__ == '__main__':
  absltest.main()
