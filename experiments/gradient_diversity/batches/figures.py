"""The four figures of `gradient_diversity`, drawn from its records."""

import pathlib

import numpy as np

from experiments.common import plots
from experiments.gradient_diversity.batches import analysis


def draw_all(config, summary) -> list[pathlib.Path]:
  """Draw and write every figure; return the paths."""
  folder = pathlib.Path(config.workdir) / 'figures'
  figures = {
    'diversity': draw_diversity, 'loss_ratio': draw_loss_ratio,
    'collapse': draw_collapse, 'stability': draw_stability}
  return [plots.save(draw(config, summary), folder / f'{name}.png')
          for name, draw in figures.items()]


def _by_replication(config):
  return zip(range(len(config.replications)), config.replications,
             plots.COLORS, plots.MARKERS)


def draw_diversity(config, summary):
  """Draw B_S with its band, for each r; of the batch's examples, by layer."""
  del summary
  run = analysis.tracked(config)
  figure, axes = plots.mosaic(
    [f'bound {i}' for i in range(len(config.replications))],
    ['examples', 'diversity', 'noise', 'layers'], width=15.0)
  for i, r, color, marker in _by_replication(config):
    _draw_bound(axes[f'bound {i}'], config, run, i, color)
    axes[f'bound {i}'].set_title(f'r = {r:g}')
    style = dict(color=color, label=f'r = {r:g}')
    if config.exact:
      mean = 1 / (1 / run['diversity'][i]).mean(0)
      axes['diversity'].plot(run['passes'], mean, marker=marker, markevery=8,
                             **style)
    signal, noise = (run[k][i].mean(0) for k in ('sq_norm', 'variance'))
    axes['noise'].plot(run['passes'], noise, **style)
    axes['noise'].plot(run['passes'], np.where(signal > 0, signal, np.nan),
                       color=color, ls='--', lw=1)
  first, examples = axes['bound 0'], axes['examples']
  first.legend(fontsize=8, loc='lower right')
  _draw_bound(examples, config, run, 0, plots.COLORS[0], 'example_')
  examples.set_title(f'r = 1, of the {config.reference_batch_size} examples')
  for ax in (first, examples):
    ax.set_ylabel('batch-size bound B_S (examples)')
  axes['diversity'].set(
    ylabel='gradient diversity Δ (harmonic mean)',
    title=f'Whole set: B_S = {config.train_examples}·Δ')
  axes['noise'].set(ylabel='tr Σ (solid), ‖∇F‖² (dashed)',
                    title='Tracked parts of B_S')
  _draw_layers(axes['layers'], run)
  for name in ('diversity', 'noise', 'layers'):
    plots.log_scale(axes[name]).set_xlabel('data passes')
    if 0 < len(axes[name].get_lines()) <= 10:
      axes[name].legend(fontsize=8, ncols=2)
  return figure


def _draw_layers(ax, run):
  """Draw B_S of each layer over the whole set, as it is."""
  bounds = analysis.layer_bounds(run)
  for (layer, bound), color in zip(
      bounds.items(), [*plots.shades(max(1, len(bounds) - 1)), 'black']):
    ax.plot(run['passes'], bound[0], color=color, label=layer)
  ax.set(ylabel='B_S (r = 1)', title='Whole set, each layer')


def _draw_bound(ax, config, run, i, color, prefix=''):
  """Draw one seed's B_S: as tracked, its band, and over the whole set.

  On a scale of 1/B_S, so that infinity, where ‖∇F‖² is not resolved, has a
  place.
  """
  passes, size, seed = run['passes'], config.reference_batch_size, 0
  signal, noise, low, high = (
    run[prefix + name][i, seed]
    for name in ('sq_norm', 'variance', 'inverse_low', 'inverse_high'))
  ax.fill_between(passes[1:], low[1:], high[1:], color=color, alpha=0.15,
                  lw=0, label='95 % band')
  ax.plot(passes, np.clip(signal / (signal + noise), 0, 1), color=color,
          lw=1.2, label=f'tracked, {config.num_workers} workers')
  if config.exact:
    exact = run['diversity'][i, seed] * config.train_examples
    ax.plot(passes, 1 / exact, color='black', lw=1, label='exact, whole set')
  ax.axhline(1 / size, color='black', lw=1, ls=':',
             label=f'batch size {size}')
  ax.set_yscale('symlog', linthresh=1 / config.train_examples)
  bounds = 10 ** np.arange(1 + int(np.log10(config.train_examples)))
  ax.set_yticks([*(1 / bounds), 0], [*map(str, bounds), '∞'])
  ax.yaxis.set_minor_locator(plots.no_ticks())
  ax.set(xlabel='data passes', ylim=(1, 0))


def draw_loss_ratio(config, summary):
  """Draw loss(B)/loss(smallest B) by batch size, a line for each r."""
  figure, ((ax,),) = plots.subplots(1, 5.4)
  base = config.batch_sizes[0]
  for _, r, color, marker in _by_replication(config):
    cells = _cells(summary, r)
    mean, error = _mean_and_error(cells, 'loss_ratio')
    ax.errorbar([c['batch_size'] for c in cells], mean, error, color=color,
                marker=marker, capsize=3, label=f'r = {r:g}')
  ax.axhline(1, color='black', lw=1, ls=':')
  plots.label_sizes(ax, config.batch_sizes)
  plots.log_scale(ax).set(
    xlabel='batch size B (examples)',
    ylabel=f'loss(B) / loss({base}), mean over the passes',
    title='What large batches lose in as many data passes')
  ax.legend(title='set repeated r times')
  return figure


def draw_collapse(config, summary):
  """Draw gradients to the target over the fewest, against B over ρ.

  The prediction for a set is a·(B + ρ) gradients, with the noise scale ρ that
  was measured along the run. Over its limit a·ρ for small batches, all sets
  share one curve, 1 + B/ρ.
  """
  figure, ((ax,),) = plots.subplots(1, 6.5, 4.4)
  for _, r, color, marker in _by_replication(config):
    cells = [c for c in _cells(summary, r)
             if None not in (c['evaluations'][0], c['predicted_evaluations'])]
    if len(cells) < 2:
      continue
    sizes = np.array([c['batch_size'] for c in cells], float)
    slope, offset = np.polyfit(
      sizes, [c['predicted_evaluations'] for c in cells], 1)
    scale = offset / slope
    mean, error = _mean_and_error(cells, 'evaluations')
    ax.errorbar(
      sizes / scale, mean / offset, error / offset, color=color,
      marker=marker, capsize=3, ls='none',
      label=f'each example {r:g}×, noise scale ρ = {scale:.0f}')
  ax.set_xscale('log')
  plots.log_scale(ax)
  low, high = ax.get_xlim()
  curve = np.geomspace(low, high, 200)
  ax.plot(curve, 1 + curve, color='black', zorder=0,
          label='predicted: 1 + B/ρ')
  ax.axvspan(low, 1, color='black', alpha=0.06, lw=0)
  ax.text(0.03, 0.96, 'below ρ a larger batch\nis almost free',
          transform=ax.transAxes, va='top')
  ax.text(0.36, 0.96, 'above ρ it wastes\ngradients', va='top',
          transform=ax.transAxes)
  ax.set(xlim=(low, high), xlabel='batch size B / noise scale ρ',
         ylabel=f'gradients to loss {config.target_loss:g}, over the fewest',
         title='The noise scale says how large a batch pays')
  ax.set_yticks([1, 2, 5, 10, 20, 50])
  ax.yaxis.set_minor_locator(plots.no_ticks())
  plots.plain_numbers(ax)
  ax.xaxis.set_major_formatter('{x:g}')
  ax.legend(fontsize=9, loc='lower right', frameon=False)
  return figure


def draw_stability(config, summary):
  """Draw how far twin runs part, along training and at its end."""
  figure, ((left, right),) = plots.subplots(2)
  far = analysis.stability(config)
  colors = plots.shades(len(config.batch_sizes))
  for (size, distance), color in zip(far.items(), colors):
    passes = np.linspace(0, config.passes, len(distance))
    left.plot(passes, distance.mean(1), color=color, label=f'B = {size}')
  sizes = [int(size) for size in summary['distance']]
  mean = np.array([d[0] for d in summary['distance'].values()])
  error = np.array([d[1] or 0. for d in summary['distance'].values()])
  right.errorbar(sizes, mean, error, marker='o', capsize=3)
  plots.label_sizes(right, sizes)
  left.set(xlabel='data passes', ylabel='normalized distance (0 to √2)',
           title='Two sets that differ in one example')
  right.set(xlabel='batch size B (examples)', ylim=(0, None),
            ylabel=f'distance after {config.passes} passes',
            title='Stability by batch size')
  left.legend(fontsize=8, ncols=2)
  return figure


def _cells(summary, replication):
  return [c for c in summary['cells'] if c['replication'] == replication]


def _mean_and_error(cells, name):
  pairs = [c[name] for c in cells]
  return (np.array([m if m is not None else np.nan for m, _ in pairs], float),
          np.array([e if e is not None else 0. for _, e in pairs], float))
