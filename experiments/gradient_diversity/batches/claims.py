"""The claims of Yin et al. 2018 about batch sizes, and questions of ours."""

import itertools
import math

import xarray as xr

from experiments.common import intervals
from experiments.common.claims import Claim
from experiments.gradient_diversity.batches import analysis, coverage

# loss(512)/loss(16) by r, read off the plots of Fig. 2 (to 5 to 10 %).
PAPER_RATIOS = {
  'logistic': {1.: 2.2, 2.: 3.6, 4.: 11., 8.: 39.},
  'cuda_convnet': {1.: 3.6, 1.5: 6.3, 2.: 12., 4.: 53.},
  'resnet18': {1.: 1.93, 2.: 2.05, 4.: 3.7, 8.: 12.3}}
PANELS = {'logistic': 'Fig. 2a', 'cuda_convnet': 'Fig. 2b',
          'resnet18': 'Fig. 2c'}
# Distances by batch size, read off the plot of Fig. 3a, at pass 29.
PAPER_DISTANCES = {64: 0.30, 512: 0.41, 1024: 2.0}
MORE = (1.0, math.inf)
PREDICTED = (1 / 1.5, 1.5)
COVERED = (0.9, math.inf)
# Far below B_S, a window that knows it is rare.
TOLD_AT_SMALLEST = (0.5, math.inf)


def claims(config, reduced) -> list[Claim]:
  """Judge every claim."""
  return [
    *_order(config, reduced), *_waste(config, reduced),
    *_prediction(config, reduced), *_distances(config, reduced),
    *_coverage(config, reduced)]


def large(config) -> int:
  """Choose the batch size to compare with the smallest: 512 where it is."""
  return 512 if 512 in config.batch_sizes else config.batch_sizes[-1]


def paper_ratios(config) -> tuple[str, dict[float, float]]:
  """Return the panel of Fig. 2 for a network, and its ratios by r.

  Fig. 2a, of logistic regression, for networks that the paper does not have.
  """
  model = config.model if config.model in PAPER_RATIOS else 'logistic'
  is_same = (config.batch_sizes[0], large(config)) == (16, 512)
  return PANELS[model], PAPER_RATIOS[model] if is_same else {}


def growth(runs: xr.DataArray, dim: str, low, high) -> intervals.Interval:
  """Compare runs [..., seed] at two coordinates, seed by seed.

  The geometric mean of the quotients, with its interval.
  """
  return intervals.of_mean(
    (runs.sel({dim: high}) / runs.sel({dim: low})).values, log=True)


def _order(config, reduced):
  small, big = config.batch_sizes[0], large(config)
  panel, paper = paper_ratios(config)
  runs = reduced.ratios.sel(batch=big)
  pairs = list(itertools.pairwise(config.replications))
  if len(pairs) > 1:
    pairs.append((config.replications[0], config.replications[-1]))
  for low, high in pairs:
    yield Claim(
      f'order_{low:g}_{high:g}',
      f'large batches lose more at r = {high:g} than at r = {low:g}',
      f'loss({big})/loss({small}) after equal numbers of passes: that at '
      f'r = {high:g} over that at r = {low:g}',
      growth(runs, 'replication', low, high), MORE,
      paper[high] / paper[low] if {low, high} <= paper.keys() else None, panel,
      runs=config.num_seeds, unit='×', note='The paper trains on CIFAR-10: '
      'only the order can be compared.')


def _waste(config, reduced):
  small, big = config.batch_sizes[0], large(config)
  bounds = analysis.bound_at_target(config, reduced.tracked)
  for r, bound in zip(config.replications, bounds):
    yield Claim(
      f'waste_{r:g}', f'batches beyond B_S waste gradients (r = {r:g})',
      f'gradients to the target loss at batch {big} over those at {small}',
      growth(reduced.counts.sel(replication=r), 'batch', small, big), MORE,
      source='Lemma 1', runs=config.num_seeds, unit='×',
      note=f'Where the loss reaches the target, B_S is {bound:.0f}.'
      if math.isfinite(bound) else '')


def predicted_over_counted(config, reduced) -> xr.DataArray:
  """Divide predicted by counted gradients: [replication, batch, seed].

  Without the reference batch size, where the prediction begins.
  """
  counts, size = reduced.counts, config.reference_batch_size
  anchor = counts.sel(batch=size, drop=True)
  return (reduced.growth * anchor / counts).drop_sel(batch=size)


def _prediction(config, reduced):
  counts = reduced.counts
  cells = predicted_over_counted(config, reduced).stack(
    cell=('replication', 'batch')).transpose('cell', 'seed')
  found = {cell: intervals.of_mean(row.values, log=True)
           for cell, row in zip(cells['cell'].values, cells)}
  known = {cell: x for cell, x in found.items() if x.is_known}
  if not known:
    return
  # The interval that reaches farthest: within the range, all others are, too.
  farthest = lambda cell: max(-math.log(known[cell].low),
                              math.log(known[cell].high))
  (r, size) = worst = max(known, key=farthest)
  yield Claim(
    'prediction', 'the noise scale predicts how many gradients each batch size '
    'takes, to a factor of 1.5', 'predicted over counted gradients to the '
    f'target loss; of {len(known)} cells (r and batch size), the one whose '
    f'interval reaches farthest from 1: r = {r:g}, batch {size}'
    f'{config.in_the_first}',
    known[worst], PREDICTED, source='ours', runs=config.num_seeds, unit='×',
    note=f'Of {counts.size // counts.sizes["seed"]} cells, '
    f'{counts.sizes["replication"]} have batch {config.reference_batch_size}, '
    f'where the predictions start; in {len(known)} of the other {len(found)}, '
    'every run reaches the target. The noise scale is that of a run at a tuned '
    'learning rate.')


def _distances(config, reduced):
  final = reduced.distance.isel({'pass': -1})
  sizes = [size for size in PAPER_DISTANCES if size in config.batch_sizes]
  for low, high in itertools.pairwise(sizes):
    yield Claim(
      f'distance_{low}_{high}', 'training sets that differ in one example end '
      f'further apart with batch {high} than with {low}', 'distance between '
      f'twin runs at batch {high} over that at {low}',
      growth(final, 'batch', low, high), MORE,
      PAPER_DISTANCES[high] / PAPER_DISTANCES[low], 'Fig. 3a',
      runs=config.num_twins, unit='×', note='Learning rates are tuned for each '
      'batch size. The distance 2.0 of the paper is above √2, the most that '
      'its formula can give: only the order can be compared.')


def _coverage(config, reduced):
  bands = reduced.bands.sel(source='workers')
  if 'exact' not in bands or config.num_workers == 1:
    return
  rows = (
    ('coverage', 'where `track_moments` knows B_S to a factor of two, its '
     'interval holds the exact one', 'share of the records with such a window '
     'at which it does; nominal 95 %', coverage.covered(bands), COVERED),
    ('bound', 'its lower bound on B_S is right', 'share of the records of a '
     'run at which it is; nominal 95 %', coverage.bounded(bands), COVERED))
  for key, text, how, runs, allowed in rows:
    yield Claim(key, text, how, _mean_share(runs), allowed, source='ours',
                runs=config.num_seeds, unit='%')
  yield _told(config, config.reference_batch_size, bands, COVERED)
  if reduced.small_bands is not None:
    yield _told(config, config.batch_sizes[0],
                reduced.small_bands.sel(source='workers'), TOLD_AT_SMALLEST)


def _told(config, size, bands, allowed):
  known = 100 * float(coverage.known(bands).mean())
  return Claim(
    f'told_{size}', f'at batch {size}, `track_moments` knows B_S or bounds it '
    'rightly', 'share of the records of a run at which its interval of a '
    'factor of two holds the exact B_S or, without one, the lower bound does',
    _mean_share(coverage.told(bands)), allowed, source='ours',
    runs=config.num_seeds, unit='%', note=f'B_S is known at {known:.0f} %.')


def _mean_share(runs):
  """Return the mean of shares, with Student's interval cut at 0 and 1."""
  value, low, high = intervals.of_mean(runs.values)
  return intervals.Interval(value, max(low, 0.), min(high, 1.))
