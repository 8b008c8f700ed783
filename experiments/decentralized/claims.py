"""The claims that `decentralized` tests: what, how, how much, and the verdict.

Intervals are of 95 %, from resampling the seeds; arms are compared seed by
seed, which share their starts and batches.
"""

import math

import numpy as np

from experiments.decentralized import analysis as report, arms as arms_lib

# Of the reproduction, fixed before it was run.
MORE_SUCCESSES, EARLY_BELOW, LATE_ABOVE = 1 / 3, 0.6, 0.85


def test(config) -> list[dict]:
  """Test every claim that the domains allow."""
  claims = []
  if 'images' in config.domains:
    claims += [*_of_the_paper(config), *_of_the_controls(config),
               *_of_the_law(config)]
    if len(config.batch_sizes) > 1:
      claims.append(_of_the_batch(config))
    claims.append(_of_lamb(config))
  if 'text' in config.domains:
    claims.append(_of_text(config))
  return claims


def claim(text: str, how: str, values: list, holds: bool | None) -> dict:
  """Write down a claim: [value, low, high] or a list of values.

  None where the interval allows both.
  """
  known = [x if math.isfinite(x) else None for x in values]
  return {'claim': text, 'test': how, 'measured': known,
          'holds': None if holds is None else bool(holds)}


def above_zero(interval: list[float]) -> bool | None:
  """Tell whether a gain is above 0; None where the interval allows both."""
  _, low, high = interval
  return True if low > 0 else False if high <= 0 else None


def survived(config, name, *args) -> np.ndarray:
  """Count the rates at which an arm succeeds: [seed]."""
  return report.successes(config, report.find(config, name, *args)).sum(0)


def gain(config, better: str, worse: str, *args) -> list[float]:
  """Compare two arms: how many more of the rates one survives."""
  return report.resampled(
    lambda a, b: float(np.mean(a) - np.mean(b)),
    survived(config, better, *args), survived(config, worse, *args))


def _of_the_paper(config):
  main, focus = report.main_arm(config), _focus(config)
  rate = f'at rate {config.focus_rate:g}'
  good = {name: report.successes(config, report.find(config, name))[focus]
          for name in (main, 'ssgd')}
  wanted = math.ceil(MORE_SUCCESSES * config.num_seeds)
  more = report.resampled(
    lambda a, b: float(a.sum() - b.sum()), good[main], good['ssgd'])
  medians = {
    (name, when.__name__): report.resampled(
      report.median, when(config, report.find(config, name), 'ratio')[focus])
    for name in (main, 'ssgd') for when in (report.early, report.late)}
  early, late = medians[main, 'early'], medians[main, 'late']
  plain = medians['ssgd', 'early']
  return [
    claim('DPSGD converges where SSGD diverges',
          f'successes of DPSGD less those of SSGD {rate}, of '
          f'{config.num_seeds}: at least {wanted}', more, more[0] >= wanted),
    claim('it lowers its learning rate where the landscape is rough',
          f'median α_e/α, first {report.EARLY:.0%} of the steps, {rate}: below '
          f'{EARLY_BELOW:g}', early, early[0] < EARLY_BELOW),
    claim('and restores it once the workers agree',
          f'the same, last {report.LATE:.0%}: above {LATE_ABOVE:g}', late,
          late[0] > LATE_ABOVE),
    claim('the rate of SSGD stays as it is',
          'median α_e/α of SSGD, first steps: from 0.9 to 1.1', plain,
          0.9 < plain[0] < 1.1)]


def _of_the_controls(config):
  main = report.main_arm(config)
  of_rates = f'of {len(config.learning_rates)} rates, a seed'
  means = [float(survived(config, name).mean())
           for name in (main, 'ssgd_noise', 'ssgd')]
  beyond_noise = gain(config, main, 'ssgd_noise')
  noise = gain(config, 'ssgd_noise', 'ssgd')
  beyond_imposed = gain(config, main, 'imposed')
  imposed = gain(config, 'imposed', 'ssgd')
  helps = above_zero(noise)
  return [
    claim('DPSGD ≥ SSGD* ≥ SSGD', f'rates survived, {of_rates}: in this order',
          means, means == sorted(means, reverse=True)),
    claim('its noise does what isotropic noise does not',
          f'rates survived beyond SSGD*, {of_rates}: above 0', beyond_noise,
          above_zero(beyond_noise)),
    claim('only its noise helps',
          f'rates survived by SSGD* beyond SSGD, {of_rates}: not above 0',
          noise, helps if helps is None else not helps),
    claim('it is more than an automatic warm-up (control)',
          'rates survived beyond SSGD on which its effective rate is imposed, '
          f'{of_rates}: above 0', beyond_imposed,
          above_zero(beyond_imposed)),
    claim('the imposed rate alone helps (control)',
          f'rates survived by it beyond SSGD, {of_rates}: above 0', imposed,
          above_zero(imposed))]


def _of_the_law(config):
  arm = report.find(config, report.main_arm(config))
  by_rate = [report.median(x) for x in report.early(config, arm, 'spread')]
  claims = [claim(
    'a larger rate spreads the workers further',
    f'median σ_w², first {report.EARLY:.0%} of the steps, by rate: rises',
    by_rate, by_rate == sorted(by_rate))]
  if len(config.topologies) > 1:
    arms = [report.find(config, f'dpsgd_{name}') for name in config.topologies]
    arms.sort(key=lambda arm: arms_lib.contraction(
      arms_lib.mixing_matrices(config, arm)))
    spread = [report.median(report.early(config, arm, 'spread')[
      arm.learning_rates.index(config.focus_rate)]) for arm in arms]
    names = ', '.join(arm.topology for arm in arms)
    claims.append(claim(
      'the less the graph mixes, the further they spread',
      f'the same at rate {config.focus_rate:g}, by rising ρ² = ‖E WᵀW − 11ᵀ/n‖ '
      f'({names}): rises', spread, spread == sorted(spread)))
  return claims


def _of_the_batch(config):
  large, small = max(config.batch_sizes), min(config.batch_sizes)
  counts = [survived(config, name, 'images', size)
            for size in (large, small)
            for name in (report.main_arm(config), 'ssgd')]
  more = report.resampled(
    lambda a, b, c, d: float(np.mean(a) - np.mean(b) - np.mean(c)
                             + np.mean(d)), *counts)
  return claim(
    'it helps where batches are large',
    f'rates survived beyond SSGD, at batch {large} less at {small}: above 0',
    more, above_zero(more))


def _of_lamb(config):
  final = []
  for name in (report.main_arm(config), 'lamb'):
    arm = report.find(config, name)
    accuracy = np.nan_to_num(report.load(config, arm)['accuracy'][..., -1])
    final.append(accuracy[accuracy.mean(1).argmax()])
  more = report.resampled(
    lambda a, b: 100 * float(np.mean(a) - np.mean(b)), *final)
  return claim(
    'it beats LAMB (a question of readers)', 'test accuracy in points beyond '
    'LAMB, each at the rate best on the test set: above 0', more,
    above_zero(more))


def _of_text(config):
  more = gain(config, report.main_arm(config), 'ssgd', 'text')
  return claim(
    'text: an LSTM, too, learns at rates at which SSGD does not',
    f'rates survived beyond SSGD, of {len(config.text_learning_rates)}, a '
    'seed: above 0', more, above_zero(more))


def _focus(config):
  return config.learning_rates.index(config.focus_rate)
