"""Reduces the runs of `batch_size_control`, and judges the claims."""

import dataclasses
import math

import numpy as np
import xarray as xr

from experiments.common import intervals, tables as tables_lib
from experiments.common.claims import Claim

ARMS = {'noise_scale': 'the noise scale', 'four': 'four noise scales',
        'norm_test': 'the norm test', 'divebatch': 'DiveBatch'}
# What ratios count as kept, as fewer, and as no more than twice.
LOSS, FEWER, TWICE = (-math.inf, 1.1), (-math.inf, 0.9), (-math.inf, 2.0)


def reduce(config, done) -> xr.Dataset:
  """Collect all arms: what each ends with, and the way of the controlled."""
  fixed = [done[f'fixed_{size}'].assign(batch_size=size)
           for size in config.batch_sizes]
  fixed = [_last(config, runs.assign(
    examples=runs['taken'] * runs['batch_size'])) for runs in fixed]
  steered = [xr.concat([done[f'{arm}_{seed}'] for seed in config.seeds], 'seed')
             for arm in ARMS]
  ends = xr.concat(fixed + [_last(config, runs) for runs in steered], 'arm')
  way = xr.concat(steered, 'controlled')[['progress', 'batch_size']]
  small = done[f'fixed_{config.batch_sizes[0]}']
  return xr.Dataset({
    **ends, **way, 'noise_scale': small['noise_scale'].rename(step='small'),
  }).assign_coords(arm=[*map(str, config.batch_sizes), *ARMS],
                   controlled=list(ARMS))


def _last(config, runs):
  """Pick what runs end with; a run that was lost counts as not begun."""
  is_done = runs['progress'] >= config.steps
  loss = runs['loss'].where(np.isfinite, runs['loss'].isel(step=0))
  return xr.Dataset({
    'loss': loss.isel(step=-1), 'accuracy': runs['accuracy'].isel(step=-1),
    'steps': runs['taken'].isel(step=-1).where(is_done.any('step')),
    # Seen at the first record after the end; unknown where there is none.
    'gradients': runs['examples'].where(is_done).min('step')})


def best(config, reduced: xr.Dataset) -> str:
  """Choose the fixed batch size of the lowest loss, a geometric mean."""
  loss = np.log(reduced['loss'].sel(arm=list(map(str, config.batch_sizes))))
  return str(loss.mean('seed').idxmin('arm').item())


def claims(config, reduced: xr.Dataset) -> list[Claim]:
  """Judge each controller against the best, smallest and largest batch."""
  sizes = config.batch_sizes
  first, most = map(str, (sizes[0], sizes[-1]))
  found = best(config, reduced)
  shown = {'loss': 'training losses', 'steps': 'steps',
           'gradients': 'gradients, to the first record at the end,'}

  def claim(key, arm, other, name, text, allowed, source='ours'):
    ours, theirs = (reduced[name].sel(arm=x).values for x in (arm, other))
    return Claim(
      f'{key}_{arm}', f'{ARMS[arm]}: {text}', f'{shown[name]} of controlled '
      f'runs over those at batch {other}, seed by seed', intervals.of_mean(
        ours / theirs, log=True), allowed, source=source,
      runs=config.num_seeds,
      note=_errors(ours, theirs) if name == 'loss' else '')

  return [
    *(one for arm in ARMS for one in (
      claim('kept', arm, first, 'loss', f'it keeps the loss of batch {first}',
            LOSS),
      claim('loss', arm, found, 'loss', 'it ends with the loss of the best '
            f'fixed batch, {found}', LOSS),
      claim('steps', arm, first, 'steps', 'at least a tenth fewer steps than '
            f'batch {first}', FEWER),
      claim('gradients', arm, most, 'gradients', 'at least a tenth fewer '
            f'gradients than batch {most}', FEWER))),
    dataclasses.replace(
      claim('twice_steps', 'noise_scale', most, 'steps', 'at most twice the '
            'fewest steps', TWICE, 'section 2.3'),
      note='The batch grows as far as the interval of B_S allows, which lags '
      'behind the exact one.'),
    claim('twice_gradients', 'noise_scale', first, 'gradients', 'at most twice '
          'the fewest gradients', TWICE, 'section 2.3')]


def _errors(ours, theirs):
  """Say how far two mean losses are apart, in standard errors."""
  gap = ours - theirs
  error = gap.std(ddof=1) / len(gap)**0.5
  if not error:
    return ''
  return (f'The means differ by {gap.mean() / error:.1f} standard errors.'
          .replace('-', '−'))


def tables(config, reduced: xr.Dataset, summary: dict
           ) -> list[tables_lib.Table]:
  """Show what each arm ends with."""
  del summary
  shown = lambda name, arm, unit='', log=True: tables_lib.with_interval(
    intervals.of_mean(reduced[name].sel(arm=arm).values, log=log), unit)
  return [tables_lib.Table(
    f'After {config.steps} scale-invariant iterations',
    ('batch size', 'training loss', 'test accuracy', 'steps', 'gradients'),
    [(arm, shown('loss', arm), shown('accuracy', arm, '%', log=False),
      shown('steps', arm), shown('gradients', arm))
     for arm in map(str, reduced['arm'].values)])]
