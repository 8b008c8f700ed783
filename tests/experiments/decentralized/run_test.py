"""The third paper, small: a run that is cut off, records, figures."""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest

from experiments.common import running
from experiments.decentralized import study
from experiments.engine import records, signals
from tests.experiments import study_run
from tests.experiments.decentralized.small import SMALL, find


class StopAtFirstLook(signals.Stop):
  """A signal that comes while the first chunk is under way."""

  @property
  def signum(self):
    return 2


@pytest.mark.slow
class RunTest(study_run.StudyRun, absltest.TestCase):

  study = study.Decentralized()
  small = dataclasses.replace(
    SMALL, roundings=2, batch_sizes=(63,), topologies=('random',))

  @classmethod
  def before(cls):
    cls.task = cls.study.prepare(cls.config)
    try:  # cut off in the middle of an arm
      cls.part('dpsgd_random').run(cls.folder / 'run', StopAtFirstLook())
    except signals.Interrupted:
      cls.cut = records.read(cls.log('dpsgd_random'))

  def figures(self):
    return super().figures() - {'text'}  # of a domain that is not chosen

  @classmethod
  def part(cls, name):
    return cls.study.part(cls.config, cls.task, find(cls.config, name))

  @classmethod
  def log(cls, name):
    return (cls.folder / 'run' / find(cls.config, name).part / 'lanes_00'
            / 'metrics.jsonl')

  def test_a_run_that_was_cut_off_goes_on(self):
    """Series and parameters of each worker's own: as those of a whole run."""
    self.assertEqual([row['step'] for row in self.cut], [0, 2])
    whole = self.folder / 'whole'
    self.part('dpsgd_random').run(whole, signals.Stop())
    self.assertEqual(
      records.read(self.log('dpsgd_random')), records.read(
        whole / self.log('dpsgd_random').relative_to(self.folder / 'run')))

  def test_every_arm_has_its_cells(self):
    summary = json.loads((self.folder / 'run' / 'summary.json').read_text())
    found = {(c['arm'], c['domain'], c['batch_size'], c['learning_rate'])
             for c in summary['cells']}
    four = 'ssgd', 'ssgd_noise', 'imposed', 'dpsgd_random'
    six = 'ssgd', 'ssgd_noise', 'dpsgd_two_neighbors'
    self.assertEqual(found, {
      *((name, 'images', 63, rate) for name in four for rate in (0.5, 4.)),
      *((name, 'images', 126, 0.5) for name in six),
      ('lamb', 'images', 63, 0.01)})
    for claim in self.outcome.claims:
      self.assertIn(claim.text, self.printed)
      self.assertIsNotNone(claim.second)
    self.assertIn('SSGD, imposed rate', self.printed)

  def test_who_starts_alike_goes_alike_at_first(self):
    """At step 0 all parameters are equal: a ratio near 1, and no spread."""
    runs = {name: self.outcome.reduced.find(name).records
            for name in ('ssgd', 'dpsgd_random')}
    first = {name: run['ratio'][..., 0] for name, run in runs.items()}
    np.testing.assert_allclose(first['ssgd'], first['dpsgd_random'], 1e-4)
    for name, run in runs.items():
      decentralized = name == 'dpsgd_random'
      self.assertLess(run['spread'][..., 0].max(), 1e-10)  # of rounding
      self.assertEqual(run['spread'].max() > 1e-6, decentralized)
      self.assertEqual(
        bool((run['across_spread'][..., 1:] > 0).all()), decentralized)

  def test_the_imposed_ratio_is_that_of_dpsgd(self):
    lanes = json.loads(
      (self.log('imposed').parent / 'lanes.json').read_text())['lanes']
    ratio = self.outcome.reduced.find('dpsgd_random').records['ratio']
    wanted = np.repeat(np.median(ratio, 1), 2, 0)
    np.testing.assert_allclose([at['ratio'] for at in lanes],
                               np.maximum(wanted, 0), 1e-5, 1e-6)

  def test_the_second_rounding_differs_in_rounding_alone(self):
    one, two = (
      np.array(records.read(path / self.log('ssgd').relative_to(
        self.folder / 'run'))[1]['ratio'])
      for path in (self.folder / 'run', self.folder / 'run' / 'reversed'))
    np.testing.assert_allclose(one, two, 1e-4)
    self.assertTrue((one != two).any())

  def test_another_target_is_another_look_at_the_same_records(self):
    self.look_again(target_accuracy=0.2)
    self.assertLen(
      [path for path in self.records() if path.stem == 'metrics'], 16)


@pytest.mark.slow
class DivergesTest(absltest.TestCase):

  def test_a_study_of_rates_that_all_diverge_is_reported(self):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(
        SMALL, workdir=folder, domains=('images', 'text'), batch_sizes=(12,),
        topologies=('random',), learning_rates=(1e30,), focus_rate=1e30,
        lamb_rates=(1e30,), fig_5_rates=(), text_learning_rates=(1e30,))
      with contextlib.redirect_stdout(io.StringIO()) as printed, \
          contextlib.redirect_stderr(io.StringIO()):
        running.run(study.Decentralized(), config, stop=signals.Stop())
      for name in study.Decentralized.figures:
        self.assertTrue((pathlib.Path(folder) / f'{name}.png').exists(), name)
      self.assertNotIn('nan', (pathlib.Path(folder) / 'claims.json')
                       .read_text().lower())
    self.assertIn('SSGD', printed.getvalue())


if __name__ == '__main__':
  absltest.main()
