"""What is claimed of the third paper: on records made up; and in full, slow."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.decentralized import (
  analysis,
  arms,
  claims,
  config as decentralized,
  task,
)
from experiments.engine import records, trainer

SMALL = decentralized.Config(
  workdir='unset', num_workers=3, num_seeds=6, batch_sizes=(12, 6),
  topologies=('random', 'complete'), steps=20, num_records=1, measure_every=1,
  learning_rates=(1., 2., 4.), focus_rate=4., lamb_rates=(0.01,),
  target_accuracy=0.5, text_batch_size=6, text_steps=20, text_seeds=2,
  text_learning_rates=(1.,))


class ClaimsTest(parameterized.TestCase):
  """Records made up: every claim can hold, and every claim can fail."""

  GOOD = {'ssgd': [1, 1, 0], 'dpsgd_random': [1, 1, 1],
          'dpsgd_complete': [1], 'ssgd_noise': [1, 1, 0],
          'imposed': [1, 1, 0], 'lamb': [1]}
  SMALL_BATCH = {'ssgd': [1, 1, 1], 'dpsgd_random': [1, 1, 1]}

  def write(self, early=0.4, late=0.9, plain=1.0, spread=(1, 2, 3, 2.5),
            **changed):
    config = dataclasses.replace(
      SMALL, workdir=self.enterContext(tempfile.TemporaryDirectory()))
    for arm in arms.list_arms(config):
      shares = self.GOOD | changed if arm.batch_size == 12 else (
        self.SMALL_BATCH)
      share = np.repeat([0., 1.] if arm.domain == 'text' and (
        arm.name == 'ssgd') else shares[arm.name], arm.num_seeds)[
          :len(arm.learning_rates) * arm.num_seeds]
      ratio = (np.r_[[early] * 10, [late] * 10] if arm.topology
               else np.full(20, plain))
      where = spread if arm.name == 'dpsgd_random' else spread[3:] * 3
      row = {'accuracy': 0.05 + 0.9 * share, 'loss': 5 - 4 * share}
      if arm.is_measured:
        row |= {name: np.repeat(
          where[:len(arm.learning_rates)], arm.num_seeds)[:, None] * np.ones(20)
          for name in ('spread', 'across', 'across_batch', 'across_spread')
          } | {'ratio': np.tile(ratio, (len(share), 1))}
      with records.Records(
          pathlib.Path(config.workdir) / arm.part / 'metrics.jsonl') as log:
        log.write(0, **row)
        log.write(20, **row)
    return config

  def verdicts(self, **changed):
    return {c['claim'].split(' (')[0]: c['holds']
            for c in claims.test(self.write(**changed))}

  def test_figures_and_tables_of_every_batch_and_graph(self):
    config = self.write()
    with contextlib.redirect_stdout(io.StringIO()) as out:
      summary = analysis.report(config)
    for text in ('batch 6, 20 steps', 'DPSGD, complete', 'holds', 'FAILS',
                 '6/6 [0.61, 1.00]'):
      self.assertIn(text, out.getvalue())
    self.assertLen(summary['cells'], 4 * 3 + 1 + 1 + 2 * 3 + 2)
    self.assertLen(list(pathlib.Path(config.workdir).rglob('*.png')), 3)

  def test_all_hold_but_that_which_cannot_beat_itself(self):
    failed = {k: holds for k, holds in self.verdicts().items()
              if holds is not True}
    self.assertEqual(failed, {'the imposed rate alone helps': False,
                              'it beats LAMB': False})
    good = self.verdicts(imposed=[1, 1, 1], lamb=[0])
    self.assertTrue(good['the imposed rate alone helps'])
    self.assertTrue(good['it beats LAMB'])

  @parameterized.parameters(
    ({'ssgd': [1, 1, 1]}, 'DPSGD converges where SSGD diverges',
     'it helps where batches are large', 'DPSGD ≥ SSGD* ≥ SSGD'),
    ({'early': 0.7, 'late': 0.8, 'plain': 1.2, 'spread': (1, 3, 2, 4)},
     'it lowers its learning rate where the landscape is rough',
     'and restores it once the workers agree',
     'the rate of SSGD stays as it is',
     'a larger rate spreads the workers further',
     'the less the graph mixes, the further they spread'),
    ({'ssgd_noise': [1, 1, 1]}, 'its noise does what isotropic noise does not',
     'only its noise helps'),
    ({'imposed': [1, 1, 1]}, 'it is more than an automatic warm-up'))
  def test_fails(self, changed, *names):
    verdicts = self.verdicts(**changed)
    for name in names:
      self.assertIs(verdicts[name], False)

  def test_what_the_seeds_do_not_tell_is_left_open(self):
    gain = analysis.resampled(
      lambda a, b: np.mean(a) - np.mean(b), np.array([1, 0, 1, 1, 0]),
      np.array([0, 1, 1, 0, 0]))
    self.assertBetween(gain[0], 0.19, 0.21)
    self.assertIsNone(claims.above_zero(gain))


@pytest.mark.slow
class ReproductionTest(absltest.TestCase):

  def test_dpsgd_learns_where_ssgd_does_not(self):
    """P3-17, at a rate of 2.25: of 48 seeds, as rounding decides on each.

    Of 12, the late median came out from 0.80 to 0.96.
    """
    with tempfile.TemporaryDirectory() as folder:
      config = decentralized.Config(
        workdir=f'{folder}/run', data_dir=f'{folder}/data',
        domains=('images',), learning_rates=(2.25,), batch_sizes=(1000,),
        topologies=('random',), num_seeds=48, measure_every=2)
      keep = arms.list_arms(config)[:2]
      self.assertEqual([arm.name for arm in keep], ['dpsgd_random', 'ssgd'])
      problem = task.Problem(config, 'images')
      for arm in keep:
        workers = trainer.Workers(config.num_workers)
        trainer.train(problem.program(arm, workers.axis_name),
                      trainer.Schedule(300, 30), f'{folder}/run/{arm.part}',
                      config={}, workers=workers)
      good, plain = (int(analysis.successes(config, arm).sum())
                     for arm in keep)
      self.assertGreaterEqual(good, plain + 16)
      early, late = (analysis.median(when(config, keep[0], 'ratio'))
                     for when in (analysis.early,
                                  analysis.late))
      self.assertLess(early, 0.6)
      self.assertGreater(late, 0.85)


if __name__ == '__main__':
  absltest.main()
