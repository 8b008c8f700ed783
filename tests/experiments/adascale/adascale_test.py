"""AdaScale: the gain and its schedule, the claims, and a whole small run."""

import contextlib
import dataclasses
import io
import math
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

import gradiv
from experiments.adascale import analysis, task
from experiments.adascale.config import Config
from experiments.adascale.study import AdaScale
from experiments.common import flags, parsing, reporting, running
from tests import helpers

SMALL = Config(
  workdir='unset', num_seeds=2, scales=(2, 4), steps=8, num_records=4,
  batch_size=4, window=8, learning_rates=(0.05, 0.1),
  model_options='{"hidden": [4]}')


def lane(gain, rate=0.5, power=1.0):
  return {'gain': jnp.float32(gain), 'rate': jnp.float32(rate),
          'power': jnp.float32(power)}


def walk(optimizer, grads, count):
  """Take steps on the same gradients [workers, ...]: all updates and states."""
  step, state = helpers.step_of(optimizer), optimizer.init(grads[0])
  updates, states = [], []
  for _ in range(count):
    update, state = step(grads, state)
    updates.append(np.asarray(update))
    states.append(state)
  return np.array(updates), states


class OptimizerTest(parameterized.TestCase):

  def test_a_gain_of_one_is_plain_sgd_on_the_mean(self):
    grads = np.float32([[1, 2], [3, -4]])
    updates, states = walk(task.sgd_by_gain(lane(1), SMALL, 2), grads, 8)
    schedule = optax.cosine_decay_schedule(0.5, 8)
    expected = [-schedule(i) * grads.mean(0) for i in range(8)]
    np.testing.assert_allclose(updates, expected, 1e-5, 1e-7)
    self.assertEqual(float(states[-1].num_steps), 8)

  def test_square_root_scaling_moves_along_the_schedule_as_linear_does(self):
    updates, states = walk(
      task.sgd_by_gain(lane(2, power=0.5), SMALL, 2), np.ones((2, 1), 'f'), 4)
    schedule = optax.cosine_decay_schedule(0.5, 8)
    rates = [float(schedule(2 * i)) for i in range(4)]
    np.testing.assert_allclose(
      updates[:, 0], -2**0.5 * np.array(rates), 1e-5, 1e-7)
    self.assertEqual(float(states[-1].progress), 8)

  @parameterized.parameters((2, 4), (3, 3), (1.25, 7), (16, 1))
  def test_it_ends_when_the_gains_add_up(self, gain, taken):
    grads = np.ones((2, 1), 'f')
    updates, states = walk(task.sgd_by_gain(lane(gain), SMALL, 2), grads, 10)
    at = np.minimum(gain * np.arange(10), 8)
    gains = np.minimum(gain, 8 - at)
    rates = [float(optax.cosine_decay_schedule(0.5, 8)(x)) for x in at]
    np.testing.assert_allclose(updates[:, 0], -gains * rates, 1e-4, 1e-6)
    self.assertEqual(float(states[-1].progress), 8)
    self.assertEqual(float(states[-1].num_steps), taken)

  def test_the_gain_is_that_of_the_tracked_moments(self):
    grads = np.random.default_rng(0).normal(1, 1, (4, 50)).astype('f')
    updates, states = walk(task.sgd_by_gain(lane(0), SMALL, 4), grads, 1)
    gain = gradiv.adascale_gain(
      gradiv.estimate(helpers.moments_of(grads, batch_size=4)), batch_size=4,
      scale=4)
    self.assertBetween(float(gain), 1.1, 3.9)
    np.testing.assert_allclose(
      updates[0], -0.5 * float(gain) * grads.mean(0), 1e-4, 1e-6)
    self.assertAlmostEqual(float(states[0].progress), float(gain), 4)


def fake(loss=None, steps=None, seeds=4, **gained):
  """Make a reduced result: by default every arm is like the small batch."""
  arms, scales = ['adascale', 'identity', 'linear', 'root', 'constant'], [2, 4]
  jitter = 1 + 0.01 * np.arange(seeds)
  values = {name: np.ones((2, 5, seeds)) * jitter for name in ('loss', 'steps')}
  values['gained'] = 1e-4 * np.arange(seeds) + np.reshape(
    [gained.get(arm, 0.) for arm in arms], (1, 5, 1)) + np.zeros((2, 5, seeds))
  for name, given in (('loss', loss), ('steps', steps)):
    for arm, x in (given or {}).items():
      values[name][:, arms.index(arm)] *= np.reshape(x, (-1, 1))
  dims = ('scale', 'arm', 'seed')
  return xr.Dataset(
    {name: (dims, x) for name, x in values.items()} | {
      'predicted': (('scale', 'seed'), np.ones((2, seeds)))},
    {'scale': scales, 'arm': arms, 'seed': range(seeds)})


class ClaimsTest(absltest.TestCase):

  def verdicts(self, **given):
    found = analysis.claims(SMALL, fake(**given))
    self.assertLen({claim.key for claim in found}, len(found))
    return {claim.key: claim.verdict for claim in found}

  def test_each_claim_can_hold(self):
    found = self.verdicts(
      loss={'linear': 9, 'constant': 2}, linear=-.1, root=-.1)
    self.assertLen(found, 10)
    self.assertEqual(set(found.values()), {'holds'})

  def test_each_claim_can_fail(self):
    found = self.verdicts(
      loss={'adascale': 2}, steps={'adascale': 2}, adascale=-.1)
    self.assertEqual(set(found.values()), {'fails'})

  def test_each_scale_is_judged_by_itself(self):
    found = self.verdicts(loss={'adascale': (1, 2)}, steps={'adascale': (2, 1)})
    self.assertEqual([found[key] for key in (
      'loss_2', 'loss_4', 'steps_2', 'steps_4')],
      ['holds', 'fails', 'fails', 'holds'])


class ReduceTest(absltest.TestCase):

  def runs(self, arms, rates, loss):
    """Make the results of a part: losses [step], the same in all lanes."""
    shape = len(arms), len(rates), 2, 3
    names = {'loss': loss, 'accuracy': 0.5, 'taken': [0, 4, 8],
             'sq_norm': 1.0, 'variance': 16.0}
    return xr.Dataset(
      {name: (('arm', 'rate', 'seed', 'step'), np.broadcast_to(x, shape).copy())
       for name, x in names.items()},
      {'arm': list(arms), 'rate': list(rates), 'seed': [0, 1],
       'step': [0, 4, 8]})

  def setUp(self):
    super().setUp()
    base = self.runs(('base',), (0.05, 0.1), [2.0, 1.0, 0.5])
    base['loss'][:, 0, :, -1] = 1.0
    self.done = {'base': base}
    for s in SMALL.scales:
      self.done[f'scale_{s}'] = self.runs(
        ('adascale', 'identity', 'linear', 'root'), (0.1,), [2.0, 1.0, 0.5])
      self.done[f'constant_{s}'] = self.runs(
        ('constant',), (0.1,), [2.0, 1.0, 0.75])

  def reduced(self):
    """Reduce the results, with the gains that follow from them."""
    return analysis.reduce(SMALL, self.done | {
      analysis.GAINS: task.exact_gains(
        SMALL, analysis.small_batch(self.done))})

  def test_the_rate_is_the_best_and_a_lost_run_makes_it_none(self):
    self.assertEqual(analysis.best_rate(self.done['base']), 0.1)
    self.done['base']['loss'][0, 1, 0, -1] = math.nan
    self.assertEqual(analysis.best_rate(self.done['base']), 0.05)

  def test_nothing_is_known_where_every_rate_diverges(self):
    self.done['base']['loss'][..., 1:] = math.nan
    found = analysis.claims(SMALL, self.reduced())
    self.assertEqual({c.key: c.verdict for c in found if c.key[0] == 'l'},
                     dict.fromkeys(('loss_2', 'loss_4', 'linear_4'), 'unknown'))

  def test_a_lost_run_counts_as_untrained(self):
    self.done['scale_4']['loss'][2, 0, 1, 1:] = math.nan
    found = self.reduced()['loss']
    self.assertEqual(found.sel(scale=4, arm='linear').values.tolist(), [1, 4])
    self.assertEqual(found.sel(scale=4, arm='constant').values.tolist(),
                     [1.5, 1.5])

  def test_steps_are_predicted_from_the_noise_scale(self):
    """With G = 1, S = 16 and b = 4 the gain is 5 / (1 + 4 / scale)."""
    found = self.reduced()['predicted']
    np.testing.assert_allclose(found.sel(scale=2), 8 * 3 / 5, 1e-6)
    np.testing.assert_allclose(found.sel(scale=4), 8 * 2 / 5, 1e-6)


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    ('--scales=1,2', 'at least 2 and rising'),
    ('--scales=4,2', 'at least 2 and rising'),
    ('--learning_rates=0,1', 'positive and rising'),
    ('--num_records=7', 'a divisor of --steps=500'),
    ('--batch_size=0', '--batch_size=0: must be at least 1'),
    ('--window=32', '--window=32: must be above --scales=32'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(Config, ['adascale', '--workdir=x', flag])


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = dataclasses.replace(
      SMALL, workdir=str(cls.folder / 'run'), data_dir=str(cls.folder / 'data'))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      cls.outcome = running.run(AdaScale(), cls.config)
    cls.printed = out.getvalue()

  def test_steps_follow_from_the_gains(self):
    steps = self.outcome.reduced['steps']
    self.assertTrue((steps.sel(arm='identity') == 8).all())
    self.assertEqual(steps.sel(arm='linear').values.tolist(), [[4, 4], [2, 2]])
    own = steps.sel(arm='adascale')
    self.assertTrue((own > steps.sel(arm='linear')).any())
    self.assertTrue((own <= 8).all())
    np.testing.assert_array_equal(steps.sel(arm='constant'), own)

  def test_claims_are_printed_and_figures_drawn(self):
    self.assertLen(self.outcome.claims, 10)
    self.assertIn('4 times the batch, beside', self.printed)
    for claim in self.outcome.claims:
      self.assertIn(claim.text, self.printed)
    for name in ('scaling.png', 'claims.png', 'claims.json', 'summary.json'):
      self.assertTrue((self.folder / 'run' / name).exists(), name)

  def test_a_report_trains_nothing_and_finds_the_same(self):
    with contextlib.redirect_stdout(io.StringIO()):
      again = reporting.report(AdaScale(), self.config)
    self.assertEqual(again.claims, self.outcome.claims)


if __name__ == '__main__':
  absltest.main()
