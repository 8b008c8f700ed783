"""Reduces the runs of `gradient_diversity --study=batches`.

Everything is labeled by replication r, batch size and seed. Two learning rates
are chosen for each r and batch size: the one with the least mean loss, and the
one that reaches the target with the fewest gradients.
"""

import dataclasses

import numpy as np
import xarray as xr

from experiments.common import tuning

# Parts that are derived from the tracked runs.
BANDS, SMALL_BANDS, ADVICE = 'bands', 'small_bands', 'advice'


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show.

  Attributes:
    rates: The learning rate of least mean loss [replication, batch].
    ratios: loss(B) over the loss of the smallest batch, each at its rate, in
      the mean over the passes: [replication, batch, seed].
    counts: Gradients to the target loss, at the fastest rate: [replication,
      batch, seed]; infinite where not reached.
    growth: The counts over those at the reference batch size, as the noise
      scale predicts them.
    tracked: What was measured along a training: [replication, seed, step],
      with the passes at each step.
    bands: The fields of `windows.Band` [source, replication, seed, step], from
      'workers' and from 'examples'; with --exact, the truth as 'exact'.
    small_bands: The same at the smallest batch size [source, seed, step]; None
      where that is not tracked.
    advice: What `gradiv.advise` says at the end of the first run [replication].
    distance: Between twin runs: [batch, seed, pass].
  """

  rates: xr.DataArray
  ratios: xr.DataArray
  counts: xr.DataArray
  growth: xr.DataArray
  tracked: xr.Dataset
  bands: xr.Dataset
  small_bands: xr.Dataset | None
  advice: xr.DataArray
  distance: xr.DataArray


def reduce(config, done) -> Reduced:
  """Choose rates and reduce every part."""
  loss = losses(config, done)
  rates = best_rates(loss)
  tuned = loss.sel(rate=rates).isel({'pass': slice(1, None)})
  ratios = tuned / tuned.isel(batch=0, drop=True)
  counts = gradients_to_target(config, loss)
  fastest = counts.isel(
    rate=counts.mean('seed', skipna=False).argmin('rate'))
  run = tracked(config, done)
  return Reduced(
    rates, ratios.mean('pass', skipna=False).drop_vars(
      'rate', errors='ignore'),
    fastest.drop_vars('rate'), predicted_growth(config, fastest, run), run,
    done[BANDS], done.get(SMALL_BANDS), done[ADVICE]['advice'],
    distances(config, done))


def part_of(kind: str, size: int) -> str:
  """Name the part of a kind of runs at a batch size."""
  return f'{kind}/batch_{size:05d}'


def losses(config, done) -> xr.DataArray:
  """Collect the loss [replication, batch, rate, seed, pass] of the sweep.

  Infinite where it is not finite.
  """
  return _by_batch(config, done, 'sweep', 'loss').transpose(
    'replication', 'batch', ...).fillna(np.inf)


def distances(config, done) -> xr.DataArray:
  """Collect how far apart twin runs are: [batch, seed, pass]."""
  return _by_batch(config, done, 'stability', 'distance').isel(
    half=0, drop=True)


def _by_batch(config, done, kind, name):
  """Join what was recorded once each pass, batch size by batch size."""
  passes = np.arange(config.passes + 1)
  return xr.concat(
    [done[part_of(kind, size)][name].rename(step='pass').assign_coords(
      {'pass': passes}) for size in config.batch_sizes],
    xr.DataArray(list(config.batch_sizes), dims='batch', name='batch'))


def best_rates(loss: xr.DataArray) -> xr.DataArray:
  """Choose the rate [replication, batch] with the least mean loss.

  The mean runs over the passes and the seeds: a rate that diverges once is
  never chosen.
  """
  loss = loss.isel({'pass': slice(1, None)})
  mean = loss.mean(('seed', 'pass'), skipna=False)
  return mean['rate'][mean.argmin('rate')].drop_vars('rate')


def gradients_to_target(config, loss: xr.DataArray) -> xr.DataArray:
  """Count the gradients until a loss [..., pass] reaches the target.

  Between two records the logarithm of the loss is taken as linear; infinite
  where the target is never reached.
  """
  passes = loss['passes' if 'passes' in loss.coords else 'pass'].values
  with np.errstate(divide='ignore'):
    found = tuning.steps_to(
      np.log(config.target_loss), passes, np.log(loss.values))
  return loss.isel({loss.dims[-1]: 0}, drop=True).copy(
    data=found * config.train_examples)


def tracked(config, done) -> xr.Dataset:
  """Take the run with tracked moments: [replication, seed, step]."""
  size = config.reference_batch_size
  run = done[part_of('diversity', size)]
  return run.assign_coords(
    passes=('step', run['step'].values * size / config.train_examples))


def predicted_growth(config, counts: xr.DataArray, run: xr.Dataset
                     ) -> xr.DataArray:
  """Predict by the noise scale how the gradients to the target grow.

  At the reference batch size b, a run spends a share of its gradients in each
  stretch k, with the noise scale ρ_k measured there. On batches of B, with the
  best step size, the stretch takes (B + ρ_k)/(b + ρ_k) times as many.

  Returns:
    The growth [replication, batch, seed], as `counts`; NaN where the run does
    not reach the target.
  """
  b = config.reference_batch_size
  totals = gradients_to_target(config, run['loss']).values
  scale, gradients = noise_scale(run), run['passes'] * config.train_examples
  growth = counts.copy(data=np.full(counts.shape, np.nan))
  for i, s in np.ndindex(totals.shape):
    rho = scale.values[i, s]
    rho = rho[(gradients.values <= totals[i, s]) & np.isfinite(rho) & (rho > 0)]
    if np.isfinite(totals[i, s]) and rho.size:
      growth[i, :, s] = [np.mean((size + rho) / (b + rho))
                         for size in config.batch_sizes]
  return growth


def noise_scale(run: xr.Dataset) -> xr.DataArray:
  """Divide tr Σ by ‖∇F‖²: exact ones where they were computed."""
  prefix = 'exact_' if 'exact_variance' in run else ''
  return run[f'{prefix}variance'] / run[f'{prefix}sq_norm'].clip(min=0)


def bound_at_target(config, run: xr.Dataset) -> np.ndarray:
  """Read B_S [replication] where the loss reaches the target.

  The median over the seeds; NaN where one seed does not reach it.
  """
  reached = run['loss'] <= config.target_loss
  bound = 1 + noise_scale(run).isel(step=reached.argmax('step'))
  return bound.where(reached.any('step')).median('seed', skipna=False).values


def layer_bounds(run: xr.Dataset) -> dict[str, xr.DataArray]:
  """Read B_S [replication, step] of each layer and of all, over the whole set.

  The harmonic mean over the seeds; NaN where a layer has no gradient at all.
  Empty without --exact.
  """
  name = 'exact_sq_norm'
  layers = {key: key.removeprefix(f'{name}/') for key in sorted(run)
            if key.startswith(f'{name}/')}
  if layers:
    layers[name] = 'whole network'
  bounds = {}
  for key, layer in layers.items():
    signal = run[key]
    square = signal + run[key.replace('sq_norm', 'variance', 1)]
    bounds[layer] = 1 / (signal / square).mean('seed', skipna=False)
  return bounds


def predicted_counts(config, reduced: Reduced) -> xr.DataArray:
  """Predict the gradients to the target [replication, batch].

  From the mean count at the reference batch size, and the mean growth over the
  seeds whose run reached the target.
  """
  counted = reduced.counts.sel(batch=config.reference_batch_size, drop=True)
  return counted.mean('seed', skipna=False) * reduced.growth.mean('seed')
