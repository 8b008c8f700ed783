"""What is claimed of the third paper: on records made up; and in full, slow."""

import contextlib
import dataclasses
import io
import math
import pathlib
import tempfile

import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.common import claims as claims_lib, showing, study
from experiments.decentralized import (
  analysis,
  config as decentralized,
  optimizers,
  study as paper,
)
from experiments.decentralized.arms import list_arms
from experiments.engine import signals

SMALL = decentralized.Config(
  workdir='unset', num_workers=3, num_seeds=6, few_seeds=4,
  batch_sizes=(12, 6), topologies=('random', 'complete'), steps=20,
  num_records=1, measure_every=1, learning_rates=(1., 2., 4.), focus_rate=4.,
  lamb_rates=(0.01,), fig_5_rates=(1.,), target_accuracy=0.5,
  text_batch_size=6, text_steps=20, text_seeds=2, text_learning_rates=(1.,))

# By arm: which rates succeed, at the first batch size.
GOOD = {'ssgd': [1, 1, 0], 'dpsgd_random': [1, 1, 1], 'dpsgd_complete': [1],
        'ssgd_noise': [1, 1, 0], 'imposed': [1, 1, 0], 'lamb': [0.9]}
SMALL_BATCH = {'ssgd': [1, 1, 1], 'dpsgd_random': [1, 1, 1]}
FIG_5 = {'dpsgd_two_neighbors': [1.], 'ssgd': [0.9], 'ssgd_noise': [0.8]}


def records(config, early=0.4, late=0.9, plain=1.0, spread=(1, 2, 3),
            complete=2.5, batch=0.1, **changed):
  """Make up the records of every arm: all seeds alike."""
  done = {analysis.MIXING: optimizers.contractions(config)}
  for arm in list_arms(config):
    scores = {12: GOOD | changed, 6: SMALL_BATCH, 24: FIG_5}.get(
      arm.batch_size)
    if arm.domain == 'text':
      scores = {'dpsgd_random': [1.], 'ssgd': [0.]}
    shape = len(arm.rates), len(arm.seeds)
    score = np.broadcast_to(np.array(scores[arm.name])[:, None], shape)
    twice = lambda x: np.stack([x, x], -1)  # at both records
    data = {'accuracy': twice(0.9 * score), 'loss': twice(5 - 4 * score)}
    dims = ['rate', 'seed', 'step']
    variables = {name: (dims, x) for name, x in data.items()}
    if arm.is_measured:
      ratio = (np.r_[[early] * 10, [late] * 10] if arm.topology
               else np.full(20, plain))
      where = spread if arm.name == 'dpsgd_random' else [complete] * 3
      of_looks = {
        'ratio': np.broadcast_to(ratio, (*shape, 20)),
        'spread': np.broadcast_to(np.array(
          where[:shape[0]], float)[:, None, None], (*shape, 20)),
        'across': np.ones((*shape, 20)),
        'across_batch': np.full((*shape, 20), batch),
        'across_spread': np.ones((*shape, 20))}
      variables |= {
        name: ([*dims, 'slot'], np.stack([np.full_like(x, np.nan), x], 2))
        for name, x in of_looks.items()}
    done[arm.part] = xr.Dataset(variables, {
      'rate': list(arm.rates), 'seed': list(arm.seeds), 'step': [0, 20]})
  return done


def judged(**changed):
  """Return the claims about made-up records, by their keys."""
  of_paper = paper.Decentralized()
  reduced = of_paper.reduce(SMALL, records(SMALL, **changed))
  return {claim.key: claim for claim in of_paper.claims(SMALL, reduced)}


class ClaimsTest(parameterized.TestCase):
  """Records made up: every claim can hold, and every claim can fail."""

  def test_all_hold_but_that_which_cannot_beat_itself(self):
    found = {key: claim.verdict for key, claim in judged().items()}
    self.assertEqual({key for key, verdict in found.items()
                      if verdict != 'holds'}, {'imposed'})
    self.assertEqual(judged(imposed=[1, 1, 1])['imposed'].verdict, 'holds')

  @parameterized.parameters(
    ({'ssgd': [1, 1, 1]}, 'converges', 'complete', 'batch'),
    ({'early': 0.7, 'late': 0.8, 'plain': 1.2, 'spread': (1, 3, 2),
      'complete': 4}, 'early_rate', 'late_rate', 'plain_rate',
     'spread_by_rate', 'spread_by_graph'),
    ({'ssgd_noise': [1, 1, 1]}, 'beyond_noise', 'only_its_noise'),
    ({'imposed': [1, 1, 1]}, 'beyond_imposed'), ({'batch': 2.}, 'early_noise'),
    ({'lamb': [1.1]}, 'lamb'))
  def test_fails(self, changed, *names):
    found = judged(**changed)
    self.assertEqual([found[name].verdict for name in names],
                     ['fails'] * len(names))

  def test_values(self):
    found = judged()
    value = lambda key: found[key].measured.value
    self.assertEqual(value('converges'), 1.)
    self.assertEqual(value('batch'), 1.)
    self.assertAlmostEqual(value('spread_by_rate'), 1.5)
    self.assertAlmostEqual(value('early_noise'), 10.)
    self.assertAlmostEqual(value('fig_5'), 0.09)
    self.assertAlmostEqual(value('lamb'), 0.09)
    self.assertEqual(found['lamb'].runs, 4)

  def test_what_the_seeds_do_not_tell_is_open(self):
    sample = lambda x: xr.DataArray(x, dims='seed')
    gain = analysis.gain(sample([1, 0, 1, 1, 0]), sample([0, 1, 1, 0, 0]))
    self.assertBetween(gain.value, 0.19, 0.21)
    self.assertEqual(dataclasses.replace(
      judged()['imposed'], measured=gain).verdict, 'open')

  def test_arms_are_compared_on_the_seeds_that_they_share(self):
    one = xr.DataArray([1., 2., 3.], dims='seed', coords={'seed': [0, 1, 2]})
    two = xr.DataArray([3., 1.], dims='seed', coords={'seed': [2, 0]})
    self.assertEqual(tuple(analysis.gain(one, two)), (0., 0., 0.))

  def test_no_gain_at_all_is_not_above_zero(self):
    claim = judged()['imposed']
    at = lambda low, high: dataclasses.replace(
      claim, measured=analysis.Interval(0.1, low, high)).verdict
    self.assertEqual([at(0., 1.), at(1e-9, 1.), at(-1., 0.), at(-1., 1e-9)],
                     ['open', 'holds', 'fails', 'open'])


class ShownTest(absltest.TestCase):

  @pytest.mark.slow
  def test_tables_and_figures_of_every_batch_and_graph(self):
    of_paper = paper.Decentralized()
    done = records(SMALL)
    reduced = of_paper.reduce(SMALL, done)
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(SMALL, workdir=folder)
      outcome = study.Outcome(reduced, list(of_paper.claims(config, reduced)))
      with contextlib.redirect_stdout(io.StringIO()) as out:
        showing.show(of_paper, config, outcome, 0.)
      names = {path.name for path in pathlib.Path(folder).iterdir()}
      _, claims = claims_lib.read(pathlib.Path(folder) / 'claims.json')
    for text in ('batch 6, 20 steps', 'DPSGD, all with all', '0.4 → 0.9',
                 '6/6 [0.61, 1.00]', 'holds'):
      self.assertIn(text, out.getvalue())
    self.assertEqual(names, {
      'along.png', 'success.png', 'text.png', 'claims.png', 'claims.json',
      'figures.json', 'summary.json'})
    self.assertEqual([c.verdict for c in claims],
                     [c.verdict for c in outcome.claims])
    cells = of_paper.summarize(SMALL, reduced)['cells']
    self.assertLen(cells, 4 * 3 + 1 + 1 + 2 * 3 + 3 + 2)

  def test_the_imposed_ratio_is_smooth_and_finite(self):
    found = records(SMALL)['images/batch_00012/dpsgd_random']
    found['ratio'][:, :, 1, 3] = math.inf
    found['ratio'][:, 0, 1, 7] = -99.
    factors = analysis.imposed_ratio(
      dataclasses.replace(SMALL, imposed_window=2), found)
    self.assertEqual(list(factors), [1., 2., 4.])
    wanted = np.r_[[0.4] * 10, [0.9] * 10]
    wanted[3] = 1.
    wanted = np.array([wanted[max(i - 1, 0):i + 2].mean() for i in range(20)])
    np.testing.assert_allclose(factors[2.], wanted, 1e-5)


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
        topologies=('random',), num_seeds=48, measure_every=2, roundings=1)
      of_paper, done = paper.Decentralized(), {}
      task = of_paper.prepare(config)
      arms = list_arms(config)[:2]
      self.assertEqual([arm.name for arm in arms], ['dpsgd_random', 'ssgd'])
      for arm in arms:
        part = of_paper.part(config, task, arm)
        part.run(pathlib.Path(config.workdir), signals.Stop())
        done[arm.part] = part.read(pathlib.Path(config.workdir))
      good, plain = (
        int((done[arm.part]['accuracy'].isel(step=-1) > 0.95).sum())
        for arm in arms)
      self.assertGreaterEqual(good, plain + 16)
      ratio = analysis.looks(config, done[arms[0].part])['ratio'].values
      self.assertLess(analysis.median(ratio[..., :15]), 0.6)
      self.assertGreater(analysis.median(ratio[..., -30:]), 0.85)


if __name__ == '__main__':
  absltest.main()
