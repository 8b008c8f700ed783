"""The study of batch sizes, small: records, figures, twins, flags."""

import dataclasses
import json
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.common import flags
from experiments.gradient_diversity import __main__ as main, task
from experiments.gradient_diversity.batches import programs, study
from tests.experiments import prepared, study_run
from tests.experiments.gradient_diversity.small import SMALL


@pytest.mark.slow
class RunTest(study_run.StudyRun, absltest.TestCase):

  study = study.Batches()
  small = dataclasses.replace(
    SMALL, reference_batch_size=32, small_passes=3)

  def test_records_and_summary(self):
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    # A sweep and twins for each size; the tracked one at two of them.
    self.assertLen(logs, 6)
    self.assertLen(self.summary['cells'], 4)
    for cell in self.summary['cells']:
      self.assertIn(cell['learning_rate'], self.config.learning_rates)
      self.assertGreater(cell['loss_ratio'][0], 0)
    for word in ('loss ratio', 'measured at batch 32 alone',
                 'Distance of twin runs', 'B_S of each layer', '32 examples',
                 '4 workers, batch 16', 'figure: '):
      self.assertIn(word, self.printed)

  def test_claims_are_written(self):
    written = json.loads((self.folder / 'run/claims.json').read_text())
    keys = {claim['key'] for claim in written['claims']}
    self.assertLessEqual({
      'order_1_2', 'waste_1', 'waste_2', 'prediction', 'coverage', 'bound',
      'told_16', 'told_32'}, keys)

  def test_the_report_gives_the_advice_of_the_table(self):
    path = self.folder / 'run/diversity/batch_00032/lanes_00/advice.json'
    self.assertEqual(json.loads(path.read_text())['sentence'],
                     self.summary['advice']['1'])

  def test_every_step_is_tracked_at_the_smallest_batch(self):
    bands = self.outcome.reduced.small_bands
    # Of 3 passes of 4 steps, each recorded: the first ones are left out.
    self.assertEqual(int(bands['step'][-1]), 12)
    self.assertTrue(np.isfinite(bands['exact']).all())
    self.assertIsNotNone(self.summary['small_tracking'])

  def test_another_target_is_another_look_at_the_same_records(self):
    outcome = self.look_again(target_loss=2.2)
    self.assertTrue((outcome.reduced.counts
                     <= self.outcome.reduced.counts).all())

  def test_a_target_that_all_reach_at_once(self):
    """The predicted counts are zero, and so is the slope of their line."""
    outcome = self.look_again(target_loss=1e6)
    self.assertTrue((outcome.reduced.counts == 0).all())

  def test_what_is_tracked_is_near_what_is_exact(self):
    run = self.outcome.reduced.tracked
    last = run.isel(step=-1)
    for prefix in ('', 'example_'):
      ratio = last[f'{prefix}variance'] / last['exact_variance']
      self.assertTrue(((ratio > 0.2) & (ratio < 5)).all(), ratio)
    np.testing.assert_allclose(
      run['diversity'] * 64,
      1 + run['exact_variance'] / run['exact_sq_norm'], 1e-3)
    for name in ('exact_sq_norm', 'exact_variance'):
      np.testing.assert_allclose(
        sum(run[f'{name}/{layer}'] for layer in ('dense_0', 'out')),
        run[name], 1e-5)
    self.assertEqual(list(self.summary['layers']),
                     ['dense_0', 'out', 'whole network'])
    self.assertAlmostEqual(
      self.summary['layers']['whole network']['2'],
      float(1 / np.mean(1 / (64 * last['diversity'][1]))), delta=0.1)


class TwinsTest(absltest.TestCase):

  def test_one_example_is_another(self):
    problem = task.Problem(
      dataclasses.replace(SMALL, data_dir=prepared.folder()))
    rows = programs.twin_rows(
      problem, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    for one, other in ((0, 2), (1, 3)):
      np.testing.assert_array_equal(rows[one], np.arange(64))
      changed = rows[one] != rows[other]
      self.assertEqual(changed.sum(), 1)
      self.assertEqual(rows[other][changed], 64)

  def test_distances(self):
    params = {'a': jnp.array([[1., 2.], [3., 0.], [1., 2.], [-3., 0.]]),
              'b': jnp.zeros((4, 1, 2))}
    np.testing.assert_allclose(
      programs.distances(params)['distance'], [0, np.sqrt(2)] * 2)
    apart = {'a': jnp.array([[3., 0.], [0., 4.]])}
    np.testing.assert_allclose(programs.distances(apart)['distance'], [1.] * 2)


class FlagTest(parameterized.TestCase):

  @parameterized.parameters(
    ({'decay': 1.}, 'between 0 and 1'), ({'looks': 0}, 'at least 1'),
    ({'batch_sizes': (16, 48)}, '--batch_sizes=16,48: each size must divide'))
  def test_bad_values(self, changed, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      dataclasses.replace(SMALL, **changed)

  def test_the_study_is_chosen_on_the_command_line_or_in_a_file(self):
    with tempfile.NamedTemporaryFile('w', suffix='.flags') as file:
      file.write('# a comment\n--study=mechanisms\n--num_workers=2\n')
      file.flush()
      flagfile = f'--flagfile={file.name}'
      self.assertEqual(main.chosen(['main', '--workdir=x']), 'batches')
      self.assertEqual(
        main.chosen(['main', '--workdir=x', flagfile]), 'mechanisms')
      self.assertEqual(
        main.chosen(['main', flagfile, '--study=batches']), 'batches')
    self.assertEqual(main.chosen(['main', '--flagfile=gone']), 'batches')

  def test_a_report_is_of_the_study_in_the_folder(self):
    with tempfile.TemporaryDirectory() as folder:
      report = ['main', '--report', f'--workdir={folder}']
      self.assertEqual(main.chosen(report), 'batches')  # nothing is there
      pathlib.Path(folder, 'config.json').write_text(
        '{"flags": {"study": "mechanisms"}}')
      self.assertEqual(main.chosen(report), 'mechanisms')
      self.assertEqual(main.chosen([*report, '--study=batches']), 'batches')


if __name__ == '__main__':
  absltest.main()
