"""Reduces the runs of `batch_size_control`; chooses their lengths.

Each arm is a curve: the longer its runs, the lower the loss and the more steps
and gradients. Where it crosses the loss of the best fixed batch after the first
length, on held-out seeds, lies the length of the runs that are reported.
"""

import math

import numpy as np
import xarray as xr

from experiments.common import intervals, tables as tables_lib

ARMS = {'noise_scale': 'the noise scale', 'four': 'four noise scales',
        'norm_test': 'the norm test', 'divebatch': 'DiveBatch'}


def held_out(config, done) -> xr.Dataset:
  """Collect what each arm ends with at each length, on the held-out seeds."""
  return _over_arms(config, lambda arm: xr.concat(
    [_ends(_runs(done, 'tuning', arm, length, config.held_out))
     for length in config.lengths], 'length')).rename(seed='held_out')


def choose(config, held: xr.Dataset) -> tuple[str, dict[str, int]]:
  """Choose the fixed batch of the lowest loss after the first length.

  Returns its arm, and the length at which each arm has come to its loss: linear
  in the logarithms of the mean loss and of the length between two lengths, up
  to the next multiple of `record_steps`; the longest where it is not reached.
  """
  loss = np.log(np.maximum(held['loss'], 1e-30)).mean('held_out')
  first = loss.sel(length=config.lengths[0])
  best = first.sel(arm=list(map(str, config.batch_sizes))).idxmin('arm').item()
  target = first.sel(arm=best).item()
  ended = held['steps'].notnull().all('held_out')
  return best, {arm: _crossing(
    config, loss.where(ended, math.inf).sel(arm=arm).values, target)
    for arm in loss['arm'].values.tolist()}


def _crossing(config, loss, target):
  """Find the first length whose log loss [length] is the target."""
  reached = np.flatnonzero(loss <= target)
  if not reached.size:
    return config.lengths[-1]
  at = reached[0]
  length = config.lengths[at]
  if at and math.isfinite(loss[at - 1]):
    share = (loss[at - 1] - target) / (loss[at - 1] - loss[at])
    before = config.lengths[at - 1]
    length = before * (length / before) ** share
  # Rounding may have left it just above a multiple.
  records = math.ceil(length / config.record_steps - 1e-6)
  return records * config.record_steps


def reduce(config, done) -> xr.Dataset:
  """Collect all arms: what each ends with, and the way of the controlled."""
  held = held_out(config, done)
  best, chosen = choose(config, held)

  def runs(arm):
    return _runs(done, 'final', arm, chosen[arm], config.seeds).squeeze(
      'length')

  ends = _over_arms(config, lambda arm: _ends(runs(arm)).drop_vars('length'))
  way = xr.concat([runs(arm)[['progress', 'batch_size']].drop_vars('length')
                   for arm in ARMS], 'controlled', join='outer')
  small = runs(str(config.batch_sizes[0]))['noise_scale']
  return xr.Dataset({
    **ends, **way, **held.rename({name: f'held_out_{name}' for name in held}),
    'noise_scale': small.drop_vars('length').rename(step='small'),
    'chosen': ('arm', [chosen[arm] for arm in ends['arm'].values.tolist()]),
  }, attrs={'best': best}).assign_coords(controlled=list(ARMS))


def _over_arms(config, of_arm):
  arms = [*map(str, config.batch_sizes), *ARMS]
  return xr.concat([of_arm(arm) for arm in arms], 'arm').assign_coords(arm=arms)


def _runs(done, stage, arm, length, seeds):
  """Find the runs [length, seed, step] of an arm."""
  name = f'{stage}_{arm}_{length}'
  if arm in ARMS:
    return xr.concat([done[f'{name}_{seed}'] for seed in seeds], 'seed')
  return done[name].assign(examples=done[name]['taken'] * int(arm))


def _ends(runs):
  """Pick what runs end with; a run that was lost counts as not begun."""
  is_done = runs['progress'] >= runs['length']
  loss = runs['loss'].where(np.isfinite, runs['loss'].isel(step=0))
  return xr.Dataset({
    'loss': loss.isel(step=-1, drop=True),
    'accuracy': runs['accuracy'].isel(step=-1, drop=True),
    'steps': runs['taken'].isel(step=-1, drop=True).where(is_done.any('step')),
    # Seen at the first record after the end; unknown where there is none.
    'gradients': runs['examples'].where(is_done).min('step')})


def errors_apart(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Count how far the mean log losses of [seeds] are apart, in standard errors.

  The losses are paired, seed by seed. NaN where no error is known.
  """
  gaps = np.log(ours) - np.log(theirs)
  if not gaps.any():
    return 0.0  # the same runs
  error = gaps.std(ddof=1) / len(gaps)**0.5 if len(gaps) > 1 else 0
  return float(gaps.mean() / error) if error else math.nan


def front(steps: np.ndarray, gradients: np.ndarray, at: float) -> float:
  """Find the fewest steps of fixed batches that take as many gradients.

  Args:
    steps: Of each fixed batch [size], to one loss.
    gradients: Those that they take [size].
    at: How many may be taken. Between two batches, logarithms are linear; less
      than the fewest counts as the fewest.

  >>> steps, gradients = np.array([100., 50., 60.]), np.array([1., 4., 9.])
  >>> round(front(steps, gradients, 2.), 1)  # √(100 · 50)
  70.7
  """
  order = np.argsort(gradients)
  steps, gradients = steps[order], gradients[order]
  best = steps <= np.minimum.accumulate(steps)  # others take more of both
  return float(np.exp(np.interp(
    math.log(at), np.log(gradients[best]), np.log(steps[best]))))


def tables(config, reduced: xr.Dataset, summary: dict
           ) -> list[tables_lib.Table]:
  """Show what each arm ends with, and what it takes."""
  del summary
  best = reduced.attrs['best']
  target = reduced['loss'].sel(arm=best).values

  def row(arm):
    of = reduced.sel(arm=arm)
    shown = lambda x, unit='', log=True: tables_lib.with_interval(
      intervals.of_mean(x, log=log), unit)
    return (
      arm, f'{of["chosen"].item():,}', shown(of['loss'].values / target),
      tables_lib.number(errors_apart(of['loss'].values, target), digits=2),
      shown(of['accuracy'].values, '%', log=False), shown(of['steps'].values),
      shown(of['gradients'].values))

  return [tables_lib.Table(
    f'To the loss of batch {best} after {config.lengths[0]} scale-invariant '
    'iterations', ('batch size', 'iterations', f"loss over {best}'s",
                   'standard errors', 'test accuracy', 'steps', 'gradients'),
    [row(arm) for arm in map(str, reduced['arm'].values)])]
