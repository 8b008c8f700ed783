"""The three figures of `--study=mechanisms`, drawn from its records."""

import pathlib

import numpy as np

from experiments import mechanism_report, mechanisms, plots


def draw_all(config, summary) -> list[pathlib.Path]:
  """Draw and write every figure; return the paths."""
  folder = pathlib.Path(config.workdir) / 'figures'
  figures = {'bounds': draw_bounds, 'rounds': draw_rounds, 'bits': draw_bits}
  return [plots.save(draw(config, summary), folder / f'{name}.png')
          for name, draw in figures.items()]


def draw_bounds(config, summary):
  """Draw B_S measured and predicted, by mechanism, strength, convention."""
  groups = {}
  for cell in summary['bounds']:
    groups.setdefault(cell['mechanism'].split('_')[0], []).append(cell)
  labels = {'drop': ('drop rate p', 'DropConnect on gradients'),
            'noise': ('σ', 'Langevin noise'),
            'quantize': ('levels s', 'Stochastic rounding')}
  figure, (axes,) = plots.subplots(len(groups), 4.6, 4.2, sharey=True)
  for ax, (name, cells) in zip(axes, groups.items()):
    conventions = dict.fromkeys(c['draws'] for c in cells)
    for draws, colour, marker in zip(
        conventions, plots.COLOURS, plots.MARKERS):
      own = [c for c in cells if c['draws'] == draws]
      places = np.array([c['strength'] for c in own])
      measured, error, predicted = (np.array([c[k] for c in own]) for k in (
        'inverse', 'error', 'predicted'))
      ax.plot(places, predicted, color=colour, lw=1.3)
      low, high = (1 / np.maximum(measured + sign * 1.96 * error, 1e-9)
                   for sign in (1, -1))
      ax.errorbar(places, 1 / measured, (1 / measured - low,
                                         high - 1 / measured),
                  color=colour, marker=marker, ls='none', capsize=3,
                  label=draws)
    ax.axhline(config.measured_examples, color='black', lw=1, ls=':')
    xlabel, title = labels[name]
    ax.set(xlabel=xlabel, title=title)
    if name != 'drop':
      ax.set_xscale('log')
      ax.set_xticks(sorted({c['strength'] for c in cells}),
                    [f'{s:g}' for s in sorted({c['strength'] for c in cells})])
      ax.xaxis.set_minor_locator(plots.no_ticks())
  plots.log_scale(axes[0]).set_ylabel(
    'batch-size bound B_S (examples)')
  plots.plain_numbers(axes[0])
  axes[0].legend(title='draws; lines: the formula', fontsize=8)
  axes[0].annotate(f'n = {config.measured_examples}',
                   (0.98, config.measured_examples), ha='right', va='bottom',
                   xycoords=('axes fraction', 'data'), fontsize=8)
  return figure


def draw_rounds(config, summary):
  """Draw steps and modelled time by batch, and time by communication."""
  figure, grid = plots.subplots(2, 5.6, 4.0, rows=2)
  cells, cost = summary['cells'], summary['communication']
  target = config.target_accuracies[len(config.target_accuracies) // 2]
  shown = _strongest(config)
  for arm, colour, marker in zip(shown, plots.COLOURS, plots.MARKERS):
    style = dict(color=colour, marker=marker, capsize=3,
                 label=mechanisms.describe(*arm))
    steps = mechanism_report.find(cells, arm, target)
    for ax, unit in zip(grid[0], (lambda b: 1, lambda b: b)):
      _errorbar(ax, {b: x * unit(b) for b, x in steps.items()}, style)
    _errorbar(grid[1, 0], mechanism_report.times(
      config, cells, arm, target, cost), style)
    if arm != shown[0]:
      _draw_gain(grid[1, 1], config, cells, shown[0], arm, target, style)
  for ax in (*grid[0], grid[1, 0]):
    plots.label_sizes(ax, config.batch_sizes)
    plots.log_scale(ax).set(xlabel='batch size B (examples)')
  ax = grid[1, 1]
  ax.axhline(1, color='black', lw=1, ls=':')
  ax.axvline(cost, color='black', lw=1, ls=':')
  ax.set_xscale('log', base=2)
  to = f'to {target:.0%} training accuracy'
  grid[0, 0].set(ylabel=f'steps {to}', title='Rounds of communication')
  grid[0, 1].set(ylabel=f'gradient evaluations {to}', title='Evaluations')
  grid[1, 0].set(
    ylabel=f'time {to} (example gradients)',
    title=f'Modelled time: steps × ({cost} + B/{config.num_workers})')
  ax.set(xlabel='communication of a step (example gradients)',
         ylabel='time, over that of the plain mean',
         title='Best time of each, by the price of communication')
  grid[0, 0].legend(fontsize=8)
  return figure


def _draw_gain(ax, config, cells, plain, arm, target, style):
  """Draw an arm's best time over the plain mean's, by communication."""
  ratios = {}
  for cost in mechanism_report.COMMUNICATION:
    base, own = (mechanism_report.times(config, cells, a, target, cost)
                 for a in (plain, arm))
    if base and own:
      ratios[cost] = (own[mechanism_report.best_batch(own)]
                      / base[mechanism_report.best_batch(base)])
  _errorbar(ax, ratios, style)


def draw_bits(config, summary):
  """Draw test accuracy and training loss by bits a number."""
  figure, (axes,) = plots.subplots(2, 5.8, 4.4)
  for ax, name, scale in zip(axes, ('test', 'loss'), (100, 1)):
    for row in summary['bits']:
      mean, error = row[name]
      if mean is None:
        continue
      colour = plots.COLOURS[0 if row['is_sent'] else 1]
      ax.errorbar(row['bits'], scale * mean, scale * (error or 0),
                  color=colour, marker='o' if row['is_sent'] else 's',
                  mfc=colour if row['is_sent'] else 'white', capsize=3)
      ax.annotate(row['label'], (row['bits'], scale * mean), (4, 5),
                  textcoords='offset points', fontsize=8)
    ax.set_xscale('log', base=2)
    ax.margins(x=0.18)
    ax.set(xlabel='bits a number (filled: what gradiv sends; open: as coded '
                  'by its paper)')
  axes[0].set(ylabel='test accuracy (%)', title='Test accuracy by bits')
  plots.log_scale(axes[1]).set(
    ylabel='training loss', title='Training loss by bits')
  return figure


def _strongest(config):
  """Choose at most six arms: the plain mean, and the strong ones of each."""
  by_name = {}
  for name, strength in mechanism_report.arms(config):
    by_name.setdefault(name, []).append((name, strength))
  drop, noise, *rounded = by_name.values()
  return [drop[0], *drop[1:][-2:], noise[len(noise) // 2],
          *(arms[0] for arms in rounded)][:6]


def _errorbar(ax, by_place, style):
  """Draw mean and standard error of [seed] at each place."""
  pairs = [mechanism_report.stats(x) for x in by_place.values()]
  ax.errorbar(list(by_place), [m for m, _ in pairs],
              [e or 0 for _, e in pairs], **style)
