"""What the records of `gradient_diversity` say: the table and four figures.

Reads records only, so that figures can be drawn again without training.
"""

import pathlib

import numpy as np

from experiments.engine import records


def load(config, part: str, size: int) -> dict[str, np.ndarray]:
  """Read one run: name -> [records, lanes] or so; NaN where unavailable."""
  folder = pathlib.Path(config.workdir) / part / f'batch_{size:05d}'
  rows = records.read(folder / 'metrics.jsonl')
  names = set.intersection(*(set(row) for row in rows))
  return {name: np.array([row[name] for row in rows], float)
          for name in names}


def sweep(config, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Read the passes and loss [replication, rate, seed, pass] of a size."""
  run = load(config, 'sweep', size)
  shape = (len(config.replications), len(config.learning_rates),
           config.num_seeds, -1)
  loss = np.nan_to_num(run['loss'].T.reshape(shape), nan=np.inf)
  return run['step'] * size / config.train_examples, loss


def evaluations_to(target: float, passes, loss, examples: int) -> np.ndarray:
  """Count gradient evaluations until a loss [..., pass] reaches the target.

  Between two passes the logarithm of the loss is taken as linear; infinite
  where the target is never reached.
  """
  reached = np.logical_or.accumulate(loss <= target, -1)
  first = np.argmax(reached, -1)
  at = lambda i: np.take_along_axis(loss, i[..., None], -1)[..., 0]
  before = np.maximum(first - 1, 0)
  with np.errstate(divide='ignore', invalid='ignore'):
    high, low = np.log(at(before)), np.log(at(first))
    share = np.where(first > 0, (high - np.log(target)) / (high - low), 0.)
  share = np.where(np.isfinite(share), share, 1.)
  passes = passes[before] + share * (passes[first] - passes[before])
  return np.where(reached[..., -1], passes * examples, np.inf)


def tuned_rates(config) -> dict[tuple[float, int], float]:
  """Choose, for each (r, batch size), the rate with the least mean loss.

  The mean runs over the data passes and the seeds: a rate that diverges once
  is out.
  """
  best = {}
  for size in config.batch_sizes:
    _, loss = sweep(config, size)
    mean = loss[..., 1:].mean((-2, -1))
    for r, row in zip(config.replications, mean):
      best[r, size] = config.learning_rates[int(np.argmin(row))]
  return best


def loss_ratios(config) -> dict[tuple[float, int], np.ndarray]:
  """Compute loss(B)/loss(smallest B), averaged over the passes: [seed]."""
  rates, ratios = tuned_rates(config), {}
  for i, r in enumerate(config.replications):
    curves = {}
    for size in config.batch_sizes:
      _, loss = sweep(config, size)
      curves[size] = loss[
        i, config.learning_rates.index(rates[r, size]), :, 1:]
    for size in config.batch_sizes:
      ratio = curves[size] / curves[config.batch_sizes[0]]
      ratios[r, size] = ratio.mean(-1)
  return ratios


def speeds(config) -> dict[tuple[float, int], np.ndarray]:
  """Count evaluations to the target, at the rate that is fastest: [seed]."""
  result = {}
  for size in config.batch_sizes:
    passes, loss = sweep(config, size)
    counts = evaluations_to(
      config.target_loss, passes, loss, config.train_examples)
    for i, r in enumerate(config.replications):
      fastest = int(np.argmin(counts[i].mean(-1)))
      result[r, size] = counts[i, fastest]
  return result


def tracked(config) -> dict[str, np.ndarray]:
  """Read the run with tracked moments: name -> [replication, seed, record]."""
  run = load(config, 'diversity', config.reference_batch_size)
  shape = (len(config.replications), config.num_seeds, -1)
  step = run.pop('step')
  result = {name: x.T.reshape(shape) for name, x in run.items()}
  result['passes'] = (
    step * config.reference_batch_size / config.train_examples)
  return result


def predicted_speeds(config, run) -> dict[tuple[float, int], float]:
  """Predict evaluations to the target from the noise scale measured.

  At one batch size b the run spends a share f_k of its evaluations in a
  stretch k with the noise scale ρ_k. On batches of B, with the best step
  size, the stretch takes (B + ρ_k)/(b + ρ_k) times as many.
  """
  b, passes = config.reference_batch_size, run['passes']
  have = 'exact_variance' in run
  scale = (run['exact_variance'] / run['exact_sq_norm'] if have
           else run['variance'] / run['sq_norm'])
  result = {}
  for i, r in enumerate(config.replications):
    totals = evaluations_to(
      config.target_loss, passes, run['loss'][i], config.train_examples)
    for size in config.batch_sizes:
      factors = []
      for total, rho in zip(totals, scale[i]):
        within = passes * config.train_examples <= total
        rho = rho[within & np.isfinite(rho) & (rho > 0)]
        if np.isfinite(total) and rho.size:
          factors.append(np.mean((size + rho) / (b + rho)))
      anchor = np.mean(speeds(config)[r, b])
      result[r, size] = (
        float(anchor * np.mean(factors)) if factors else float('inf'))
  return result


def bound_at_target(config, run, i: int) -> float:
  """Read B_S where the loss reaches the target, median over the seeds.

  NaN where one seed does not reach it.
  """
  bounds = []
  for seed in range(config.num_seeds):
    reached = np.flatnonzero(run['loss'][i, seed] <= config.target_loss)
    if not reached.size:
      return float('nan')
    at = reached[0]
    if 'exact_variance' in run:
      bounds.append(1 + run['exact_variance'][i, seed, at]
                    / run['exact_sq_norm'][i, seed, at])
    else:
      bounds.append(1 + run['variance'][i, seed, at]
                    / max(run['sq_norm'][i, seed, at], 0))
  return float(np.median(bounds))


def stability(config) -> dict[int, np.ndarray]:
  """Read the distances of twin runs: batch size -> [record, seed]."""
  return {size: load(config, 'stability', size)['distance']
          for size in config.batch_sizes}


def report(config) -> dict:
  """Print the tables, write the summary and draw the four figures."""
  from experiments.gradient_diversity.batches import figures, tables
  workdir = pathlib.Path(config.workdir)
  summary = summarize(config)
  records.write_whole(workdir / 'summary.json', summary)
  print(tables.table(config, summary))
  for path in figures.draw_all(config, summary):
    print(f'figure: {path}')
  print(f'records: {workdir}/*/batch_*/metrics.jsonl, {workdir}/summary.json')
  return summary


def summarize(config) -> dict:
  """Reduce the records to means and standard errors over the seeds."""
  run, rates = tracked(config), tuned_rates(config)
  ratios, counts = loss_ratios(config), speeds(config)
  predicted = predicted_speeds(config, run)
  far = stability(config)

  def stats(x):
    if not np.all(np.isfinite(x)):
      return [None, None]
    error = np.std(x, ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    return [_finite(np.mean(x)), _finite(error)]

  return {
    'cells': [
      {'replication': r, 'batch_size': size, 'learning_rate': rates[r, size],
       'loss_ratio': stats(ratios[r, size]),
       'evaluations': stats(counts[r, size]),
       'steps': stats(counts[r, size] / size),
       'predicted_evaluations': _finite(predicted[r, size])}
      for r in config.replications for size in config.batch_sizes],
    'bound_at_target': {
      f'{r:g}': _finite(bound_at_target(config, run, i))
      for i, r in enumerate(config.replications)},
    'distance': {str(size): stats(d[-1]) for size, d in far.items()},
    'layers': {
      layer: {f'{r:g}': _finite(x[-1])
              for r, x in zip(config.replications, bounds)}
      for layer, bounds in layer_bounds(run).items()},
    'coverage': _tracking(run),
    'example_coverage': _tracking(run, 'example_'),
    # One worker alone tracks nothing.
    'band_ratio': None if config.num_workers == 1 else {
      'measured': _finite(band_ratio(run)),
      'predicted': predicted_band_ratio(config)},
  }


def layer_bounds(run) -> dict[str, np.ndarray]:
  """Read B_S of each layer, and of all, over the whole set: [r, record].

  The harmonic mean over the seeds; NaN where a layer has no gradient at all.
  Empty without --exact.
  """
  name = 'exact_sq_norm'
  layers = {key: key.removeprefix(f'{name}/') for key in sorted(run)
            if key.startswith(f'{name}/')}
  if layers:
    layers[name] = 'whole network'
  result = {}
  for key, layer in layers.items():
    signal = run[key]
    square = signal + run[key.replace('sq_norm', 'variance', 1)]
    with np.errstate(divide='ignore', invalid='ignore'):
      result[layer] = 1 / np.mean(signal / square, 1)
  return result


def band_ratio(run) -> float:
  """Divide the width of the workers' bands of 1/B_S by the examples'.

  The median over all records.
  """
  workers, examples = (
    (run[f'{prefix}inverse_high'] - run[f'{prefix}inverse_low'])[..., 1:]
    for prefix in ('', 'example_'))
  wide = examples > 0
  return float(np.median(workers[wide] / examples[wide]))


def predicted_band_ratio(config) -> float:
  """Predict that ratio where ‖∇F‖² is small.

  An unbiased estimate of ‖∇F‖² is a mean of products ⟨g_i, g_j⟩: of all pairs
  of n examples or, of W workers, only of pairs from two workers, a share
  (1 − 1/W)/(1 − 1/n) of them. The width goes by the root of their number.
  """
  n, workers = config.reference_batch_size, config.num_workers
  return float(np.sqrt((1 - 1 / n) / (1 - 1 / workers)))


def _tracking(run, prefix=''):
  """Hold what was tracked to what is exact, at all records but the first."""
  if 'exact_variance' not in run:
    return None
  exact = run['exact_sq_norm'] / (run['exact_sq_norm'] + run['exact_variance'])
  low, high = (run[prefix + name] for name in ('inverse_low', 'inverse_high'))
  inside = (low <= exact) & (exact <= high)
  trusted = run[prefix + 'trusted'] > 0
  return {'all': float(inside[..., 1:].mean()),
          'trusted': _finite(inside[trusted].mean() if trusted.any()
                             else np.nan),
          'share_trusted': float(trusted[..., 1:].mean()),
          'width': _finite(np.median(((high - low) / exact)[..., 1:]))}


def _finite(x):
  return float(x) if np.isfinite(x) else None
