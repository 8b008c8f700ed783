"""The second paper, small: laws, records, claims that can fail, figures."""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from experiments.common import flags
from experiments.critical_parameters import (
  __main__ as main,
  claims as critical_claims,
  config as critical_parameters,
  figures as critical_figures,
  network,
  study,
)
from experiments.engine import signals, trainer

SMALL = critical_parameters.Config(
  workdir='unset', num_seeds=3, dimensions=(4, 12), batch_sizes=(1, 4, 16),
  stalenesses=(0, 4, 16), rates_per_octave=1, target=1e-2,
  noise_ratios=(0., 16.), together=2, sparse_dimensions=(4, 8), supports=(2,),
  sparse_stalenesses=(0, 4, 16), max_steps=512, stable_steps=96,
  model='logistic', model_options='{}', num_workers=4, train_examples=64,
  network_batch_sizes=(8, 32), network_stalenesses=(4,),
  network_rates=(0.1, 0.4), network_steps=20, least_steps=10, every=5,
  target_loss=1.8)


def run(config):
  with contextlib.redirect_stdout(io.StringIO()) as out:
    return main.run(config), out.getvalue()


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = dataclasses.replace(
      SMALL, workdir=str(cls.folder / 'run'), data_dir=str(cls.folder / 'data'))
    cls.summary, cls.printed = run(cls.config)

  def test_every_study_has_claims_and_all_are_told(self):
    claims = self.summary['claims']
    self.assertEqual(list(dict.fromkeys(row['study'] for row in claims)),
                     list(study.STUDIES))
    for row in claims:
      low, high = row['interval']
      least, most = row['allowed']
      if row['measured'] is None:
        self.assertFalse(row['passed'])
        continue
      self.assertBetween(row['measured'], low, high)
      self.assertEqual(row['passed'], least <= low and (
        most is None or high <= most), row)
    workdir = pathlib.Path(self.config.workdir)
    summary = json.loads((workdir / 'summary.json').read_text())
    self.assertEqual(summary['claims'], claims)
    passed = sum(row['passed'] for row in claims)
    self.assertIn(f'{passed} of {len(claims)} claims hold', self.printed)
    self.assertEqual(self.printed.count('  pass  ')
                     + self.printed.count('  FAIL  '), len(claims))

  def test_records_have_every_cell(self):
    load = lambda name: study.load(self.config, name)
    self.assertLen(load('quadratic'), 2 * 3 * 3)
    self.assertLen(load('noise'), 2 * 2 * 2)
    self.assertLen(load('rates'), 2 * 2 * 2)
    # Beyond a delay that doubles the steps none is tried.
    tried = {(c['dimension'], c['support']): [] for c in load('sparse')}
    self.assertEqual(list(tried), [(4, 1), (8, 1), (4, 2)])
    for cell in load('quadratic'):
      self.assertLen(cell['steps'], 3)
      self.assertContainsSubset(cell['rates'], self.config.rates)

  def test_stale_gradients_take_longer_and_large_batches_do_not(self):
    steps = {(c['dimension'], c['batch_size'], c['staleness']):
             c['steps'].mean() for c in study.load(
               self.config, 'quadratic')}
    for d in self.config.dimensions:
      self.assertGreater(steps[d, 1, 16], 1.5 * steps[d, 1, 0])
      self.assertGreater(steps[d, 1, 0], 1.5 * steps[d, 16, 0])

  def test_figures(self):
    figures = sorted((self.folder / 'run' / 'figures').iterdir())
    self.assertEqual([f.stem for f in figures],
                     sorted(study.STUDIES))
    for figure in figures:
      with Image.open(figure) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_again_nothing_is_run(self):
    records = [path for path in (self.folder / 'run').rglob('*.json*')
               if path.stem in (*study.STUDIES, 'metrics')]
    self.assertLen(records, 4 + 4 + 1)
    stamps = [path.stat().st_mtime_ns for path in records]
    with absltest.mock.patch.object(
        critical_figures, 'draw_all', lambda config: []):
      self.assertEqual(run(self.config)[0], self.summary)
    self.assertEqual([path.stat().st_mtime_ns for path in records], stamps)

  def test_one_study_alone_has_its_claims(self):
    config = dataclasses.replace(self.config, studies=('sparse',))
    study.run_all(config, signals.Stop())
    self.assertEqual(
      critical_claims.list_claims(config),
      [row for row in self.summary['claims'] if row['study'] == 'sparse'])

  def test_records_of_another_config_are_refused(self):
    with self.assertRaisesRegex(
        trainer.OtherRunError, 'target: 0.01 there, 0.001 now'):
      run(dataclasses.replace(self.config, target=1e-3))

  def test_the_tracked_run_is_that_of_the_first_cell(self):
    """At its rates and seeds: by workers, but with equal steps."""
    read = lambda name: network.read_records(self.config, name)
    tracked = read(network.TRACKED)
    cell = network.load(
      self.config, network.cells(self.config)[0])
    loss = read(network.part((8, 0)))['loss'].reshape(2, 3, -1)
    for i, rate in enumerate(cell['rates']):
      place = self.config.network_rates.index(rate)
      np.testing.assert_allclose(tracked['loss'][i], loss[place, i], 1e-4)
    m, share = network.tracked_noise(self.config)
    self.assertTrue((m > 0).all() and (share <= 1).all())


class ClaimsTest(parameterized.TestCase):

  def judge(self, name, cells, **changed):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(
        SMALL, workdir=folder, studies=(name,), **changed)
      (pathlib.Path(folder) / f'{name}.json').write_text(
        json.dumps({'config': config.defining(), 'cells': cells}))
      return {row['claim']: row for row in critical_claims.list_claims(config)}

  def grid(self, law):
    """Cells of least squares that obey a law, with three runs that differ."""
    spread = np.array([0.99, 1., 1.01])
    return [{'dimension': d, 'label_noise': 0., 'batch_size': b,
             'staleness': tau, 'slowness': tau + 1 + (d + 1) / b,
             'at_edge': False,
             'steps': (10 * law(d, b, tau) * spread).tolist()}
            for d in (4, 12) for tau in (0, 4, 16) for b in (1, 4, 16)]

  @parameterized.parameters(
    (lambda d, b, tau: tau + 1 + (d + 1) / b, True),
    (lambda d, b, tau: tau + 1, False),
    (lambda d, b, tau: 1 + (d + 1) / b, False),
    (lambda d, b, tau: (tau + 1 + (d + 1) / b)**0.5, False))
  def test_a_law_that_is_not_obeyed_fails(self, law, obeyed):
    rows = self.judge('quadratic', self.grid(law))
    row = rows['steps collapse onto one curve of batch, delay and noise']
    self.assertEqual(row['passed'], obeyed)
    if obeyed:
      self.assertAlmostEqual(row['measured'], 1)
      self.assertTrue(rows['they do not with the batch alone']['passed'])
      # Twice the steps at τ = 1 + M.
      row = rows['the critical delay is M, d=4']
      self.assertAlmostEqual(row['measured'], 6 / 5)

  def test_what_is_unknown_fails(self):
    cells = self.grid(lambda d, b, tau: tau + 1 + (d + 1) / b)
    cells[0]['steps'][1] = None
    rows = self.judge('quadratic', cells)
    row = rows['steps collapse onto one curve of batch, delay and noise']
    self.assertIsNone(row['measured'])
    self.assertFalse(row['passed'])

  @parameterized.parameters((1.8, True), (1., False), (2.5, False))
  def test_rates_out_of_bounds_fail(self, c, holds):
    cells = [cell | {'steps': [c / cell['slowness']] * 3}
             for cell in self.grid(lambda d, b, tau: 1)]
    rows = self.judge('rates', cells)
    for name in ('least', 'largest'):
      self.assertEqual(rows['the largest stable rate is c/(λ (τ + 1 + M/b)); '
                            f'{name} c']['passed'], holds)

  def test_an_interval_that_is_too_wide_fails(self):
    judge = lambda runs: critical_claims.claim(
      '', '', '', np.array(runs), (0.5, 1.5))['passed']
    self.assertTrue(judge([0.99, 1., 1.01]))
    self.assertFalse(judge([0.7, 1., 1.3]))
    self.assertFalse(judge([1., 1., np.inf]))


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    (('--studies=quadratic,noises',), '--studies'),
    (('--num_seeds=2',), '--num_seeds=2: must be at least 3'),
    (('--dimensions=20',), '--dimensions=.*two or more'),
    (('--batch_sizes=2,4',), '1 first'),
    (('--batch_sizes=1,4,4',), 'rising'),
    (('--stalenesses=1,4',), 'rising from 0'),
    (('--sparse_stalenesses=0',), 'two or more'),
    (('--supports=5',), 'divisors of 64'),
    (('--noise_ratios=1,2',), 'rising from 0'),
    (('--target=1',), '--target=1.0'),
    (('--sparse_target=0',), '--sparse_target=0.0'),
    (('--together=0',), '--together=0'),
    (('--network_batch_sizes=12,24',), 'multiples of --num_workers=8'),
    (('--network_stalenesses=0,2',), 'from 1 on'),
    (('--network_rates=0.1,0.1',), '--network_rates'),
    (('--network_steps=601',), 'a multiple of --every=5'),
    (('--target_loss=0',), '--target_loss=0.0'),
    (('--decay=1',), '--decay=1.0'))
  def test_values_out_of_range(self, argv, message):
    with self.assertRaisesRegex(ValueError, message):
      flags.parse(critical_parameters.Config,
                       ['critical_parameters', '--workdir=x', *argv])


if __name__ == '__main__':
  absltest.main()
