"""The second paper, small: parts, records, flags, and what is written."""

import dataclasses
import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.common import claims as claims_lib, flags, parsing
from experiments.critical_parameters import (
  analysis,
  config as critical_config,
  network,
)
from experiments.critical_parameters.study import Critical
from experiments.engine import trainer
from tests.experiments import study_run

SMALL = critical_config.Config(
  workdir='unset', num_seeds=3, dimensions=(4, 12), batch_sizes=(1, 4, 16),
  stalenesses=(0, 4, 16), rates_per_octave=1, target=1e-2,
  noise_ratios=(0., 16.), together=2, sparse_dimensions=(4, 8), supports=(2,),
  sparse_stalenesses=(0, 4, 16), max_steps=512, stable_steps=96,
  model='logistic', model_options='{}', num_workers=4, train_examples=64,
  network_batch_sizes=(8, 32), network_stalenesses=(4,),
  network_rates=(0.1, 0.4), network_steps=20, least_steps=10, every=5,
  target_loss=1.8)


@pytest.mark.slow
class RunTest(study_run.StudyRun, absltest.TestCase):

  study = Critical()
  small = SMALL

  def test_every_study_has_claims_and_all_are_printed(self):
    claims = self.outcome.claims
    self.assertEqual(
      list(dict.fromkeys(claim.key.split('_')[0] for claim in claims)),
      list(critical_config.STUDIES))
    for claim in claims:
      self.assertIn(claim.text, self.printed)
      self.assertEqual(claim.runs, 3)
      self.assertIsNone(claim.paper)
      if claim.measured.is_known:
        self.assertBetween(
          claim.measured.value, claim.measured.low, claim.measured.high)
    _, read = claims_lib.read(self.folder / 'run' / 'claims.json')
    self.assertEqual([(claim.key, claim.verdict) for claim in read],
                     [(claim.key, claim.verdict) for claim in claims])

  def test_records_have_every_cell(self):
    reduced = self.outcome.reduced
    self.assertEqual(reduced.quadratic['steps'].shape, (2, 3, 3, 3))
    self.assertEqual(reduced.noise['steps'].shape, (2, 2, 2, 3))
    self.assertEqual(reduced.rates['steps'].shape, (2, 2, 2, 3))
    self.assertEqual(reduced.sparse['dimension'].values.tolist(), [4, 8, 4])
    self.assertEqual(reduced.sparse['support'].values.tolist(), [1, 1, 2])
    self.assertLen([path for path in self.records() if path.stem in (
      *critical_config.STUDIES, 'metrics')], 4 + 4 + 1)
    edges = analysis.summarize(self.config, reduced)['edges']
    self.assertEqual({name: total for name, (_, total) in edges.items()}, {
      'quadratic': 18, 'noise': 8, 'network': 4,
      'sparse': len(json.loads(
        (self.folder / 'run' / 'sparse.json').read_text())['result'])})

  def test_stale_gradients_take_longer_and_large_batches_do_not(self):
    steps = self.outcome.reduced.quadratic['steps'].mean('run')
    for d in self.config.dimensions:
      at = lambda b, tau: float(
        steps.sel(dimension=d, batch_size=b, staleness=tau))  # noqa: B023
      self.assertGreater(at(1, 16), 1.5 * at(1, 0))
      self.assertGreater(at(1, 0), 1.5 * at(16, 0))

  def test_another_target_loss_trains_no_cell_again(self):
    """Only the tracked run may need other rates."""
    stamps = self.records()
    study_run.run(
      self.study, dataclasses.replace(self.config, target_loss=1.7))
    again = self.records()
    self.assertEqual(stamps, {path: again[path] for path in stamps})
    for path in again.keys() - stamps.keys():
      self.assertIn('tracked', str(path))

  def test_one_study_alone_has_its_claims(self):
    config = dataclasses.replace(self.config, studies=('sparse',))
    outcome, _ = study_run.run(self.study, config, is_report=True)
    self.assertEqual(outcome.claims, [
      claim for claim in self.outcome.claims
      if claim.key.startswith('sparse_')])

  def test_records_of_another_config_are_refused(self):
    with self.assertRaisesRegex(
        trainer.OtherRunError, 'target: stored 0.01, now 0.001'):
      study_run.run(self.study, dataclasses.replace(self.config, target=1e-3))

  def test_the_tracked_run_is_that_of_the_first_cell(self):
    """At its rates and seeds: split over workers, but with equal steps."""
    config, folder, done = self.config, self.folder / 'run', {}
    for stage in Critical().stages(config, None, done):
      done |= {part.name: part.read(folder) for part in stage}
    cell = done[network.part_name(*config.network_cells()[0])]
    rates = network.rates_of(config, cell)
    for seed, rate in rates.items():
      np.testing.assert_allclose(
        done[network.TRACKED]['loss'].sel(seed=seed),
        cell['loss'].sel(rate=rate, seed=seed), 1e-4)
    found = self.outcome.reduced.network
    self.assertTrue((found.critical['tracked'] > 0).all())
    self.assertTrue((found.course <= 1).all())


class RoundingTest(absltest.TestCase):

  @pytest.mark.slow
  def test_two_roundings_are_two_runs_that_agree(self):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(
        SMALL, workdir=folder, studies=('rates',), roundings=2,
        batch_sizes=(1, 16), stalenesses=(0, 4))
      outcome, _ = study_run.run(Critical(), config)
      path = pathlib.Path(folder)
      first, second = (
        json.loads((path / name / 'rates.json').read_text())
        for name in ('', 'reversed'))
      figures = {path.stem for path in path.glob('*.png')}
    self.assertEqual(figures, {'rates', 'claims'})
    self.assertNotEqual(first['result'], second['result'])
    for claim in outcome.claims:
      np.testing.assert_allclose(claim.second, claim.measured, 1e-3)


class BadInputTest(parameterized.TestCase):

  @parameterized.parameters(
    ({'model': 'resnet50'}, "--model='resnet50'"),
    ({'model_options': '{"width": 3}'}, 'width'),
    ({'train_examples': 5000}, '--train_examples=5000: must be at most'))
  def test_a_bad_network_fails_before_any_study_runs(self, changed, message):
    with tempfile.TemporaryDirectory() as folder:
      with self.assertRaisesRegex(flags.UsageError, message):
        study_run.run(Critical(), dataclasses.replace(
          SMALL, workdir=f'{folder}/run', data_dir=f'{folder}/data',
          **changed))
      self.assertEmpty(list(pathlib.Path(folder, 'run').rglob('*.json')))

  @parameterized.parameters(
    (('--studies=quadratic,noises',), '--studies'),
    (('--num_seeds=2',), '--num_seeds=2: must be at least 3'),
    (('--dimensions=20',), '--dimensions=.*two or more'),
    (('--batch_sizes=2,4',), '1 first'),
    (('--batch_sizes=1,4,4',), 'each once'),
    (('--batch_sizes=1,8,4',), 'rising'),
    (('--stalenesses=1,4',), 'rising from 0'),
    (('--sparse_stalenesses=0',), 'two or more'),
    (('--supports=5',), 'divisors of 64'),
    (('--noise_ratios=1,2',), 'rising from 0'),
    (('--target=1',), '--target=1.0'),
    (('--sparse_target=0',), '--sparse_target=0.0'),
    (('--together=0',), '--together=0'),
    (('--train_examples=0',), '--train_examples=0'),
    (('--network_batch_sizes=12,24',), 'multiples of --num_workers=8'),
    (('--network_stalenesses=0,2',), 'at least 1'),
    (('--network_rates=0.1,0.1',), '--network_rates'),
    (('--network_steps=601',), 'a multiple of --every=5'),
    (('--target_loss=0',), '--target_loss=0.0'),
    (('--decay=1',), '--decay=1.0'))
  def test_values_out_of_range(self, argv, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(critical_config.Config,
                  ['critical_parameters', '--workdir=x', *argv])


if __name__ == '__main__':
  absltest.main()
