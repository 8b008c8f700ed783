"""What `summary.json` holds: means and standard errors over the seeds."""

from experiments.common import results
from experiments.gradient_diversity.batches import analysis, coverage
from experiments.gradient_diversity.batches.analysis import Reduced


def summarize(config, reduced: Reduced) -> dict:
  """Reduce the runs to means and standard errors over the seeds."""
  run = reduced.tracked
  bounds = analysis.bound_at_target(config, run)
  predicted = analysis.predicted_counts(config, reduced)
  return {
    'cells': [_cell(reduced, predicted, r, size)
              for r in config.replications for size in config.batch_sizes],
    'bound_at_target': {f'{r:g}': results.known(bound)
                        for r, bound in zip(config.replications, bounds)},
    'distance': {
      str(size): results.mean_and_error(
        reduced.distance.sel(batch=size).isel({'pass': -1}))
      for size in config.batch_sizes},
    'layers': {
      layer: {f'{r:g}': results.known(float(x))
              for r, x in zip(config.replications, bound.isel(step=-1))}
      for layer, bound in analysis.layer_bounds(run).items()},
    'tracking': {source: _tracking(reduced.bands.sel(source=source))
                 for source in reduced.bands['source'].values},
    'small_tracking': None if reduced.small_bands is None else _tracking(
      reduced.small_bands.sel(source='workers')),
    'advice': {
      f'{r:g}': str(said)
      for r, said in zip(config.replications, reduced.advice.values)},
    # One worker alone tracks nothing.
    'band_ratio': None if config.num_workers == 1 else {
      'measured': results.known(coverage.band_ratio(reduced.bands)),
      'predicted': coverage.predicted_band_ratio(config)},
  }


def _cell(reduced, predicted, r, size):
  at = {'replication': r, 'batch': size}
  counts = reduced.counts.sel(at)
  return {
    'replication': r, 'batch_size': size,
    'learning_rate': float(reduced.rates.sel(at)),
    'loss_ratio': results.mean_and_error(reduced.ratios.sel(at)),
    'evaluations': results.mean_and_error(counts),
    'steps': results.mean_and_error(counts / size),
    'predicted_evaluations': results.known(float(predicted.sel(at)))}


def _tracking(bands):
  """Summarize a source of bands: how often B_S is known, and how truly."""
  found = {'known': coverage.known(bands)}
  if 'exact' in bands:
    found |= {'covered': coverage.covered(bands),
              'bounded': coverage.bounded(bands),
              'told': coverage.told(bands)}
  return {name: results.mean_and_error(found[name]) if name in found
          else [None, None] for name in ('known', 'covered', 'bounded', 'told')}
