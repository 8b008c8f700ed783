"""Counts successes, and reads off what was measured along the training."""

import dataclasses

import numpy as np
import xarray as xr

from experiments.common import intervals
from experiments.common.intervals import Interval
from experiments.decentralized.arms import Arm, list_arms

MEASURES = 'ratio', 'spread', 'across', 'across_batch', 'across_spread'
MIXING = 'mixing'  # the part of how well the graphs mix
EARLY, LATE = 0.1, 0.2  # shares of the looks: the first 30, the last 60 of 300


@dataclasses.dataclass(frozen=True)
class Run:
  """The runs of an arm.

  Attributes:
    arm: What was trained.
    records: All quantities [rate, seed, step]; measures [..., look].
    good: Which runs ended well [rate, seed].
  """

  arm: Arm
  records: xr.Dataset
  good: xr.DataArray

  def final(self, name: str) -> xr.DataArray:
    """Take the last record: [rate, seed]."""
    return self.records[name].isel(step=-1, drop=True)

  def early(self, name: str) -> xr.DataArray:
    """Take the looks of the first steps: [rate, seed, look]."""
    return self.records[name].isel(look=slice(self._share_of_looks(EARLY)))

  def late(self, name: str) -> xr.DataArray:
    """Take the looks of the last steps: [rate, seed, look]."""
    return self.records[name].isel(
      look=slice(-self._share_of_looks(LATE), None))

  def _share_of_looks(self, share: float) -> int:
    return max(round(share * self.records.sizes['look']), 1)


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show.

  Attributes:
    runs: Of every arm.
    contraction: [graph], what a step of mixing leaves of a disagreement.
  """

  runs: tuple[Run, ...]
  contraction: xr.DataArray

  def find(self, name: str, domain: str = 'images', size: int | None = None
           ) -> Run:
    """Find an arm; by default, at the first batch size of its domain."""
    return next(run for run in self.runs
                if (run.arm.name, run.arm.domain) == (name, domain)
                and size in (None, run.arm.batch_size))


def reduce(config, done) -> Reduced:
  """Label the looks, and judge every run."""
  return Reduced(
    tuple(_run(config, arm, done[arm.part]) for arm in list_arms(config)),
    done[MIXING]['contraction'])


def _run(config, arm, found):
  if arm.is_measured:
    found = found.drop_vars(MEASURES).merge(looks(config, found))
  # A run that is lost, whose loss is not a number, has not ended well.
  end = found.isel(step=-1, drop=True)
  good = (end['loss'] < config.target_loss if arm.domain == 'text'
          else end['accuracy'] > config.target_accuracy)
  return Run(arm, found, good)


def looks(config, found: xr.Dataset) -> xr.Dataset:
  """Join the measures of all records: [rate, seed, look]."""
  series = found[list(MEASURES)].isel(step=slice(1, None)).stack(
    look=('step', 'slot'), create_index=False)
  steps = config.measure_every * np.arange(series.sizes['look'])
  return series.drop_vars('step').assign_coords(look=steps)


def imposed_ratio(config, found: xr.Dataset) -> dict[float, list[float]]:
  """Read off DPSGD what to impose on SSGD: by rate, a factor for each look.

  α_e/α at the same rate, the median over the seeds (where a gradient vanishes,
  a ratio may be anything, and one seed would decide a mean), averaged over the
  looks within half of --imposed_window steps. Rounded, because the lanes of the
  part are known by it.
  """
  ratio = looks(config, found)['ratio']
  look = ratio['look'].values
  near = abs(look[:, None] - look) <= config.imposed_window / 2
  middle = ratio.where(np.isfinite(ratio)).median('seed').fillna(1)
  smooth = lambda series: np.maximum(
    [series[picked].mean() for picked in near], 0).round(6).tolist()
  return {rate: smooth(series) for rate, series in zip(
    middle['rate'].values.tolist(), middle.values)}


def median(x: np.ndarray) -> float:
  """Take the median of what is finite; NaN of nothing.

  `np.median` finds the same in four times as long, in each of many resamples.
  """
  x = np.asarray(x)
  x = np.sort(x[np.isfinite(x)], None)
  n = len(x)
  return float((x[(n - 1) // 2] + x[n // 2]) / 2) if n else float('nan')


def compared(statistic, *samples: xr.DataArray) -> Interval:
  """Resample the seeds that all samples [seed, ...] share, jointly."""
  samples = xr.align(*samples, join='inner')
  return intervals.resampled(
    statistic, *(x.transpose('seed', ...).values for x in samples))


def gain(one: xr.DataArray, two: xr.DataArray) -> Interval:
  """Compare the means of two samples [seed]."""
  return compared(lambda a, b: float(np.mean(a) - np.mean(b)), one, two)


def survived(run: Run) -> xr.DataArray:
  """Count the rates at which an arm succeeds: [seed]."""
  return run.good.sum('rate')


def summarize(config, reduced: Reduced) -> dict:
  """Reduce the runs to a cell for each arm and rate."""
  del config
  return {'cells': [_cell(run, rate) for run in reduced.runs
                    for rate in run.arm.rates]}


def _cell(run, rate):
  arm, count = run.arm, int(run.good.sel(rate=rate).sum())
  share = intervals.of_share(count, len(arm.seeds))
  cell = {
    'arm': arm.name, 'domain': arm.domain, 'batch_size': arm.batch_size,
    'learning_rate': rate, 'successes': count, 'runs': len(arm.seeds),
    'interval': list(share[1:]),
    **{name: _known(run.final(name).sel(rate=rate))
       for name in ('accuracy', 'loss')}}
  if arm.is_measured:
    cell |= {f'{when}_{name}': _known(getattr(run, when)(name).sel(rate=rate))
             for name in MEASURES for when in ('early', 'late')}
  return cell


def _known(x):
  value = median(x.values)
  return value if np.isfinite(value) else None
