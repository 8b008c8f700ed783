"""Chooses rates, counts steps, and models the time of `--study=mechanisms`.

Statistics are over the seeds, and arms are compared seed by seed. Rates and
best batches are chosen on the seeds that are shown, for all arms alike.
"""

import dataclasses

import numpy as np
import xarray as xr

from experiments.common import results, tuning
from experiments.gradient_diversity.mechanisms import arms

# The price of communication in a step; one worker computes the gradient of one
# example at a price of 1.
PRICES = tuple(2**k for k in range(2, 19))
# The best batch of plain SGD in the paper's Table 1.
PAPER_BEST_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show.

  Attributes:
    bounds: 'inverse', the 1/B_S measured, and 'predicted', the B_S of the
      formula: [cell, seed].
    rounds: 'steps' to each training accuracy [arm, target, batch, seed],
      infinite where it is not reached, at the rates chosen; 'choice', the index
      of that rate [arm, target, batch].
    prices: Those of `PRICES` at which the best batch of the plain mean is the
      paper's; see `fitting_prices`.
    wires: By wire, all quantities at the rate chosen: [seed, step].
  """

  bounds: xr.Dataset
  rounds: xr.Dataset
  prices: list[int]
  wires: dict[str, xr.Dataset]


def part(arm, size: int | None = None) -> str:
  """Name the part of a mechanism at a batch size, or of a wire."""
  return f'wires/{arm.name}' if size is None else f'{arm.name}/batch_{size:05d}'


def reduce(config, done) -> Reduced:
  """Reduce the records of all parts."""
  rounds = _rounds(config, done)
  return Reduced(
    _bounds(done['reference'].squeeze('rate', drop=True)), rounds,
    fitting_prices(config, rounds['steps'].sel(target=config.target)),
    {wire.name: at_least_loss(done[part(wire)]) for wire in arms.wires()})


def _bounds(run: xr.Dataset) -> xr.Dataset:
  """Take the ratio of the means over the batches."""
  signal = run['sq_norm'].mean('batch', skipna=False)
  total = (run['sq_norm'] + run['variance']).mean('batch', skipna=False)
  return xr.Dataset({'inverse': signal / total, 'predicted': run['predicted']})


def _rounds(config, done) -> xr.Dataset:
  """Count the steps of each arm, at the rates with the fewest."""
  found = [xr.concat([_at_fewest(config, done[part(mechanism, size)])
                      for size in config.batch_sizes], 'batch')
           for mechanism in arms.mechanisms(config)]
  return xr.concat(found, 'arm').assign_coords(
    arm=[arm.label for arm in arms.list_arms(config)],
    target=list(config.target_accuracies), batch=list(config.batch_sizes))


def _at_fewest(config, run: xr.Dataset) -> xr.Dataset:
  """Count steps [arm, target, seed] at the rates chosen."""
  counts = np.stack(
    [tuning.steps_to(target, run['step'].values, run['accuracy'].values,
                     falling=False) for target in config.target_accuracies], 1)
  choice = tuning.fewest(counts)  # of counts [arm, target, rate, seed]
  steps = np.take_along_axis(counts, choice[..., None, None], 2)[:, :, 0]
  return xr.Dataset({'steps': (('arm', 'target', 'seed'), steps),
                     'choice': (('arm', 'target'), choice)})


def at_least_loss(run: xr.Dataset) -> xr.Dataset:
  """Choose the rate of least final training loss, in the mean over seeds."""
  loss = run['loss'].isel(step=-1, drop=True).fillna(np.inf)
  return run.isel(rate=loss.mean('seed').argmin('rate'))


def best_times(config, steps: xr.DataArray) -> xr.Dataset:
  """Model the time of each arm at its best batch, by price.

  A step takes price + batch size / workers.

  Args:
    config: The flags.
    steps: [arm, batch, seed].

  Returns:
    'time' [arm, price, seed] and 'batch' [arm, price]. Where an arm reaches the
    target at no batch size, the time is infinite.
  """
  price = xr.DataArray(list(PRICES), coords={'price': list(PRICES)})
  time = steps * (price + steps['batch'] / config.num_workers)
  best = time.mean('seed', skipna=False).argmin('batch')
  return xr.Dataset({'time': time.isel(batch=best).drop_vars('batch'),
                     'batch': steps['batch'][best].drop_vars('batch')})


def fitting_prices(config, steps: xr.DataArray) -> list[int]:
  """List the prices at which the plain mean's best batch is the paper's.

  The paper does not say what communication cost on its cluster. Where no price
  fits, the nearest ones are listed; none, where the plain mean does not reach
  the target.
  """
  best = best_times(config, steps.isel(arm=[0])).isel(arm=0)
  if not np.isfinite(best['time']).all():
    return []
  gap = np.abs(np.log2(best['batch'].values / PAPER_BEST_BATCH))
  return [price for price, x in zip(PRICES, gap) if x == gap.min()]


def share_of_plain(times: xr.Dataset) -> xr.DataArray:
  """Divide the times of all arms by the plain mean's: [arm, price, seed]."""
  with np.errstate(invalid='ignore'):  # where a target takes no step
    return times['time'] / times['time'].isel(arm=0, drop=True)


def ratios(config, bounds: xr.Dataset, kind: str) -> dict:
  """Divide each measured 1/B_S of a mechanism by its formula's.

  Returns [seed] by (label, draws), without the plain mean.
  """
  ratio = (bounds['inverse'] * bounds['predicted']).transpose('cell', 'seed')
  return {(arm.label, draws): x for (arm, draws), x in zip(
    arms.list_cells(config), ratio.values)
    if arm.mechanism.kind == kind and arm.strength}


def summarize(config, reduced: Reduced) -> dict:
  """Reduce the results to numbers for each setting, arm and wire."""
  return {
    'bounds': _bounds_summary(config, reduced.bounds),
    'cells': [_cell(config, reduced.rounds, arm, size, target)
              for arm in arms.list_arms(config) for size in config.batch_sizes
              for target in config.target_accuracies],
    'target': config.target, 'fitting_costs': reduced.prices,
    'times': _times(config, reduced), 'bits': _wires(reduced.wires)}


def _of(arm):
  return {'mechanism': arm.mechanism.name, 'strength': arm.strength}


def _bounds_summary(config, bounds):
  shown = bounds.assign(over_formula=bounds['inverse'] * bounds['predicted'])
  return [
    {**_of(arm), 'draws': draws, **{
      name: results.mean_and_error(x.isel(cell=i))
      for name, x in shown.data_vars.items()}}
    for i, (arm, draws) in enumerate(arms.list_cells(config))]


def _cell(config, rounds, arm, size, target):
  found = rounds.sel(arm=arm.label, batch=size, target=target)
  choice, count = int(found['choice']), len(config.learning_rates)
  return {
    **_of(arm), 'batch_size': size, 'target': target,
    'learning_rate': config.learning_rates[choice],
    'at_edge': bool(tuning.is_at_edge(choice, count)),
    'steps': [results.known(x) for x in found['steps'].values]}


def _times(config, reduced):
  steps = reduced.rounds['steps'].sel(target=config.target)
  times = best_times(config, steps)
  share, rows = share_of_plain(times), []
  for price in reduced.prices:
    for arm in arms.list_arms(config):
      at = {'arm': arm.label, 'price': price}
      is_reached = np.isfinite(times['time'].sel(at)).all()
      rows.append({
        **_of(arm), 'cost': price,
        'best_batch': int(times['batch'].sel(at)) if is_reached else None,
        'best_batches': _resampled(config, steps.sel(arm=arm.label), price),
        'share_of_plain': results.mean_and_error(share.sel(at))})
  return rows


def _resampled(config, steps: xr.DataArray, price: int) -> dict[str, float]:
  """Resample the seeds: how often is each batch size the best?"""
  steps = steps.isel(batch=np.isfinite(steps).all('seed').values)
  if not steps.sizes['batch']:
    return {}
  times = (steps * (price + steps['batch'] / config.num_workers)).transpose(
    'batch', 'seed').values
  seeds = times.shape[1]
  picks = np.random.default_rng(0).integers(seeds, size=(2000, seeds))
  best = times[:, picks].mean(-1).argmin(0)
  return {str(size): float(np.mean(best == i))
          for i, size in enumerate(steps['batch'].values)}


def _wires(wires):
  plain, rows = wires['float32']['test'], []
  for wire in arms.wires():
    run = wires[wire.name]
    rows.append({
      'wire': wire.name, 'label': wire.label,
      'is_sent': wire.is_sent,
      'bits': float(run['bits'][0]), 'learning_rate': float(run['rate']),
      'loss': results.mean_and_error(run['loss'].isel(step=-1)),
      'test': results.mean_and_error(run['test']),
      'beyond_float32': results.mean_and_error(run['test'] - plain)})
  return rows
