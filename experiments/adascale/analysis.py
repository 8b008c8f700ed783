"""Reduces the runs of `adascale` to ratios, and judges the claims."""

import math

import numpy as np
import xarray as xr

from experiments.common import intervals, tables as tables_lib
from experiments.common.claims import Claim

LOSS, STEPS = (-math.inf, 1.1), (0.9, 1.1)  # what ratios count as kept
ACCURACY = -0.01  # what difference counts as kept
SPEED_UP = 5.0
GAINS = 'exact_gains'  # the part


def best_rate(base: xr.Dataset) -> float:
  """Choose the rate of the lowest last loss, in the mean over the seeds."""
  loss = base['loss'].isel(step=-1).mean(('arm', 'seed'), skipna=False)
  return float(loss.fillna(math.inf).idxmin('rate'))


def small_batch(done) -> xr.Dataset:
  """Take the runs of the small batch at their best rate: [seed, step]."""
  base = done['base']
  return base.sel(rate=best_rate(base), arm='base', drop=True)


def mean_gain(config, runs: xr.Dataset):
  """Return AdaScale's mean gain as a function of the seed."""
  taken = runs['taken'].isel(step=-1).sel(arm='adascale').squeeze('rate')
  # No step is taken yet while parts are planned.
  return lambda seed: config.steps / max(1, taken.sel(seed=seed))


def reduce(config, done) -> xr.Dataset:
  """Collect all arms; each loss is relative to the same seed's small batch."""
  base = small_batch(done)
  runs = xr.concat(
    [xr.concat([done[f'scale_{s}'], done[f'constant_{s}']], 'arm')
     for s in config.scales], 'scale').squeeze('rate')
  # A run that was lost counts as one that did not begin.
  loss = runs['loss'].where(np.isfinite, base['loss'].isel(step=0, drop=True))
  steps = [base['loss'].copy(data=1 / gain).integrate('step')
           for gain in done[GAINS]['gain'].values]
  return xr.Dataset({
    'loss': (loss / base['loss']).isel(step=-1),
    'steps': runs['taken'].isel(step=-1),
    'accuracy': runs['accuracy'].isel(step=-1),
    'gained': (runs['accuracy'] - base['accuracy']).isel(step=-1),
    'predicted': xr.concat(steps, 'scale'),
  }).assign_coords(scale=list(config.scales))


def claims(config, reduced: xr.Dataset) -> list[Claim]:
  """Judge loss and steps at every scale, and the controls at the largest."""
  loss, own = reduced['loss'], reduced.sel(arm='adascale')
  def claim(key, scale, text, how, ratios, allowed, source):
    return Claim(
      f'{key}_{scale}', f'{text}, {scale} times the batch', how,
      intervals.of_mean(ratios.sel(scale=scale).values, log=True), allowed,
      source=source, runs=config.num_seeds)

  most, worse = config.scales[-1], (LOSS[1], math.inf)
  return [
    *(claim('loss', s, 'AdaScale keeps the loss', 'training loss over that of '
            'the small batch, after as many scale-invariant iterations',
            own['loss'], LOSS, '') for s in config.scales),
    claim('linear', most, 'linear scaling loses it', 'the same, after as many '
          'examples', loss.sel(arm='linear'), worse, ''),
    *(claim('steps', s, 'the noise scale predicts the steps', 'steps taken '
            "over the integral of 1/gain along the small batch's run, from "
            'exact moments', own['steps'] / own['predicted'], STEPS, 'ours')
      for s in config.scales),
    claim('adaptation', most, 'a constant gain, the mean, is worse', "training "
          "loss over AdaScale's", loss.sel(arm='constant') / own['loss'], worse,
          'ours'),
    claim('speed_up', most, f'AdaScale takes {SPEED_UP:.0f} times fewer steps',
          'steps of the small batch over those of AdaScale',
          config.steps / own['steps'], (SPEED_UP, math.inf), 'ours'),
    *(_of_accuracy(reduced.sel(scale=most), arm, text, allowed)
      for arm, text, allowed in (
        ('adascale', 'AdaScale keeps the accuracy', (ACCURACY, math.inf)),
        ('linear', 'linear scaling loses accuracy', (-math.inf, ACCURACY)),
        ('root', 'square-root scaling loses accuracy', (-math.inf, ACCURACY))))]


def _of_accuracy(reduced, arm, text, allowed):
  """Judge the test accuracy of an arm, against that of the small batch."""
  scale, runs = int(reduced['scale']), reduced['gained'].sel(arm=arm).values
  mean, error = runs.mean(), runs.std(ddof=1) / len(runs)**0.5
  note = f'It is {mean / error:.1f} standard errors.' if error else ''
  return Claim(
    f'accuracy_{arm}_{scale}', f'{text}, {scale} times the batch',
    "test accuracy less that of the small batch's run of the same seed",
    intervals.of_mean(runs), allowed, source='ours', runs=len(runs), unit='%',
    note=note.replace('-', '−'))


def tables(config, reduced: xr.Dataset, summary: dict
           ) -> list[tables_lib.Table]:
  """Show what each arm ends with, at the largest scale."""
  del summary
  at = reduced.sel(scale=config.scales[-1])
  shown = lambda name, arm, unit='', log=False: tables_lib.with_interval(
    intervals.of_mean(at[name].sel(arm=arm).values, log=log), unit)
  return [tables_lib.Table(
    f"{config.scales[-1]} times the batch, beside the small batch's run of "
    f'{config.steps} steps',
    ('arm', 'test accuracy', 'less the small batch', 'training loss over its',
     'steps'),
    [(arm, shown('accuracy', arm, '%'), shown('gained', arm, '%'),
      shown('loss', arm, log=True), shown('steps', arm))
     for arm in map(str, at['arm'].values)])]
