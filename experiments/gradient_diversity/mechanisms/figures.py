"""The three figures of `--study=mechanisms`, drawn from its records."""

import pathlib

import numpy as np

from experiments.common import plots
from experiments.gradient_diversity.mechanisms import (
  analysis,
  arms as mechanisms,
)


def draw_all(config, summary) -> list[pathlib.Path]:
  """Draw and write every figure; return the paths."""
  folder = pathlib.Path(config.workdir) / 'figures'
  figures = {'bounds': draw_bounds, 'rounds': draw_rounds, 'bits': draw_bits}
  return [plots.save(draw(config, summary), folder / f'{name}.png')
          for name, draw in figures.items()]


def draw_bounds(config, summary):
  """Draw B_S by mechanism, strength and convention; below, how far it is off.

  Above as measured (points) and as the formula has it (lines); below the one
  over the other with the 95 % interval of what was measured.
  """
  groups = {}
  for cell in summary['bounds']:
    groups.setdefault(cell['mechanism'].split('_')[0], []).append(cell)
  labels = {'drop': ('drop rate p', 'DropConnect on gradients'),
            'noise': ('σ', 'Langevin noise'),
            'quantize': ('levels s', 'Stochastic rounding')}
  figure, (above, below) = plots.subplots(
    len(groups), 4.6, 3.4, rows=2, sharey='row')
  for top, bottom, (name, cells) in zip(above, below, groups.items()):
    strengths = sorted({c['strength'] for c in cells})
    for i, draws in enumerate(dict.fromkeys(c['draws'] for c in cells)):
      own = [c for c in cells if c['draws'] == draws]
      style = dict(color=plots.COLORS[i], marker=plots.MARKERS[i], ls='none',
                   label=draws)
      places = np.array([strengths.index(c['strength']) for c in own])
      measured, error, predicted = (np.array([c[k] for c in own]) for k in (
        'inverse', 'error', 'predicted'))
      top.plot(places, predicted, color=plots.COLORS[i], lw=1.3)
      top.plot(places, 1 / measured, **style)
      # Of the inverses, whose errors are even.
      bottom.errorbar(
        places + 0.12 * (i - 1), 100 * (measured * predicted - 1),
        100 * 1.96 * error * predicted, capsize=3, **style)
    top.axhline(config.measured_examples, color='black', lw=1, ls=':')
    bottom.axhline(0, color='black', lw=1)
    xlabel, title = labels[name]
    top.set_title(title)
    bottom.set_xlabel(xlabel)
    for ax in (top, bottom):
      ax.set_xticks(range(len(strengths)), [f'{s:g}' for s in strengths])
  first = above[0]
  plots.log_scale(first).set_ylabel('batch-size bound B_S')
  seen = [c['predicted'] for c in summary['bounds']]
  plots.label_sizes(first, [
    b for b in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    if min(seen) / 2 < b < 2 * max(seen)], 'y')
  first.legend(title='draws', fontsize=8)
  first.annotate(f'n = {config.measured_examples}',
                 (0.98, config.measured_examples), ha='right', va='bottom',
                 xycoords=('axes fraction', 'data'), fontsize=8)
  below[0].set_ylabel('1/B_S, over the formula (% off)')
  return figure


def draw_rounds(config, summary):
  """Draw steps and modeled time by batch, and time by communication."""
  figure, grid = plots.subplots(2, 5.6, 4.0, rows=2)
  cells, target = summary['cells'], summary['target']
  fits = summary['fitting_costs'] or list(analysis.COMMUNICATION)
  cost = analysis.middle(fits)
  shown = _strongest(config)
  for arm, color, marker in zip(shown, plots.COLORS, plots.MARKERS):
    style = dict(color=color, marker=marker, capsize=3,
                 label=mechanisms.describe(*arm))
    steps = analysis.find(cells, arm, target)
    for ax, unit in zip(grid[0], (lambda b: 1, lambda b: b)):
      _errorbar(ax, {b: x * unit(b) for b, x in steps.items()}, style)
    _errorbar(grid[1, 0], analysis.times(
      config, cells, arm, target, cost), style)
    if arm != shown[0]:
      _draw_gain(grid[1, 1], config, cells, shown[0], arm, target, style)
  for ax in (*grid[0], grid[1, 0]):
    plots.label_sizes(ax, config.batch_sizes)
    plots.log_scale(ax).set(xlabel='batch size B (examples)')
  for ax in (grid[0, 0], grid[1, 0]):
    plots.plain_numbers(ax)
  ax = grid[1, 1]
  ax.axhline(1, color='black', lw=1, ls=':')
  ax.axvspan(fits[0], fits[-1], color='black', alpha=0.06, lw=0)
  ax.annotate('the best batch of the mean\nis that of the paper' if summary[
    'fitting_costs'] else '', (cost, 0.72), ha='center', fontsize=8)
  ax.set_xscale('log', base=2)
  to = f'to {target:.0%} training accuracy'
  grid[0, 0].set(ylabel=f'steps {to}', title='Rounds of communication')
  grid[0, 1].set(ylabel=f'gradient evaluations {to}', title='Evaluations')
  grid[1, 0].set(
    ylabel=f'time {to} (example gradients)',
    title=f'Modeled time: steps × ({cost} + B/{config.num_workers})')
  ax.set(xlabel='communication of a step (example gradients)',
         ylim=(0.7, 1.8), ylabel='time, over that of the plain mean',
         title='Best time of each, by the price of communication')
  grid[0, 0].legend(fontsize=8)
  return figure


def _draw_gain(ax, config, cells, plain, arm, target, style):
  """Draw an arm's best time over the plain mean's, by communication."""
  ratios = {}
  for cost in analysis.COMMUNICATION:
    base, own = (analysis.times(config, cells, a, target, cost)
                 for a in (plain, arm))
    if base and own:
      ratios[cost] = (own[analysis.best_batch(own)]
                      / base[analysis.best_batch(base)])
  _errorbar(ax, ratios, style)


def draw_bits(config, summary):
  """Draw test error and training loss by bits a number."""
  figure, (axes,) = plots.subplots(2, 6.0, 4.4)
  colors = len(plots.COLORS)
  for ax, name in zip(axes, ('test', 'loss')):
    for i, row in enumerate(summary['bits']):
      mean, error = row[name]
      if mean is None:
        continue
      if name == 'test':
        mean, error = 100 * (1 - mean), 100 * (error or 0)
      color = plots.COLORS[i % colors]
      ax.errorbar(
        row['bits'], mean, error or 0, color=color, capsize=3, ls='none',
        marker=plots.MARKERS[(i + i // colors) % len(plots.MARKERS)],
        mfc=color if row['is_sent'] else 'white', label=row['label'])
    ax.set_xscale('log', base=2)
    ax.set(xlabel='bits a number (filled: counted in the program; open: as '
                  'coded by its paper)')
    ax.xaxis.label.set_size(8)
    ax.xaxis.set_major_formatter(
      lambda x, _: f'{x:g}')
    plots.log_scale(ax)
  axes[0].set(ylabel='test error (%)', title='Test error by bits')
  axes[1].set(ylabel='training loss', title='Training loss by bits')
  plots.plain_numbers(axes[0])
  axes[1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def _strongest(config):
  """Choose at most six arms: the plain mean, and the strong ones of each."""
  by_name = {}
  for name, strength in analysis.arms(config):
    by_name.setdefault(name, []).append((name, strength))
  drop = by_name.pop('drop')
  return [drop[0], *drop[1:][-2:],
          *(arms[len(arms) // 2] for arms in by_name.values())][:6]


def _errorbar(ax, by_place, style):
  """Draw mean and standard error of [seed] at each place."""
  pairs = [analysis.stats(x) for x in by_place.values()]
  ax.errorbar(list(by_place), [m for m, _ in pairs],
              [e or 0 for _, e in pairs], **style)
