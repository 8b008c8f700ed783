"""The figures of `critical_batch`."""

import numpy as np

from experiments.common import intervals, marks, plots
from experiments.critical_batch import analysis
from experiments.critical_batch.claims import WORDS

STYLE = {'bound': ('$B_S$', plots.COLORS[0], 's', 0.92),
         'predicted': ('predicted at the tolerance', plots.COLORS[4], '^', 1.0),
         'measured': ('measured by branches', plots.COLORS[1], 'o', 1.09)}


def branches(config, reduced, claims):
  """Show the loss of the branches from the first and the last point."""
  figure, axes = plots.panels(2, len(reduced), 2.7)
  colors = plots.shades(len(config.factors))
  for row, (domain, found) in zip(axes, reduced.items()):
    setting = config.setting(domain)
    for ax, point in zip(row, config.points[::len(config.points) - 1 or 1]):
      log_loss = found['log_loss'].sel(point=point).mean('seed').values
      seen = setting.batch_size * config.record_steps * np.arange(
        log_loss.shape[1])
      for size, color, line in zip(setting.sizes, colors, log_loss):
        ax.plot(seen, np.exp(line), color=color, lw=1.6,
                label=f'batch {size}' if ax is row[0] else None)
      top = np.exp(log_loss[0, -1] + setting.slack)
      ax.axhline(top, color=marks.INK, lw=0.8, ls=':')
      marks.level(ax, top, 'tolerance')
      low, start = np.exp(log_loss.min()), np.exp(log_loss[0, 0])
      fall = (start - low) or start
      ax.set_ylim(low - 0.1 * fall, start + 1.2 * fall)
      ax.set(title=f'{WORDS[domain]}, from step {point:,}',
             xlabel='examples seen by the branch')
    row[0].set_ylabel('training loss, smoothed')
    row[0].legend(ncols=2, fontsize=7, loc='upper right')
  marks.explain(figure, 'Lines that leave a panel are of losses that rise.')
  return figure


def critical(config, reduced, claims):
  """Show the critical batch sizes, and what ramps by them cost."""
  figure, (upper, lower) = plots.panels(len(reduced), 2, 2.9)
  for ax, below, (domain, found) in zip(upper, lower, reduced.items()):
    setting = config.setting(domain)
    sizes = analysis.sizes_of(found)
    points = np.array(config.points)
    for arm, (label, color, marker, shift) in STYLE.items():
      shown = np.minimum(np.array(sizes[arm], float), 4 * setting.sizes[-1])
      marks.points(ax, points * shift, shown, color=color, marker=marker,
                   label=label, ls='-', lw=1)
    ax.axhline(setting.sizes[-1], color=marks.INK, lw=0.8, ls=':')
    marks.level(ax, setting.sizes[-1], 'largest branch')
    plots.label_sizes(ax, setting.sizes, 'y')
    ax.set_xscale('log')
    ax.set_xticks(points, [f'{point:,}' for point in points])
    ax.xaxis.set_minor_locator(plots.no_ticks())
    ax.set(title=WORDS[domain], xlabel='step of the trunk')
    _ramps(config, below, found)
  upper[0].set_ylabel('critical batch size\n(95 % intervals)')
  upper[0].legend(fontsize=7, loc='upper left', bbox_to_anchor=(0, 0.93))
  lower[0].set_ylabel("last loss / small batch's\n(95 % intervals)")
  lower[0].legend(fontsize=7, loc='lower left')
  return figure


def _ramps(config, ax, found):
  """Draw the loss at the end against the steps that it took."""
  fixed = found['fixed'].values
  ratios = lambda ends: intervals.of_mean(np.exp(ends - fixed[:, 0]), log=True)
  steps = config.steps / np.array(config.factors)
  marks.points(ax, steps, list(map(ratios, fixed.T)), color='#888888',
               marker='.', ls='-', lw=1, label='fixed batches')
  for arm, (label, color, marker, _) in STYLE.items():
    of = found.sel(arm=arm)
    marks.points(ax, [float(of['ramp_steps'])], [ratios(of['ramp'].values)],
                 color=color, marker=marker, label=f'ramp: {label}')
  plots.log_scale(plots.label_sizes(ax, steps.astype(int)))
  if np.ptp(fixed.mean(0)) < 2:
    plots.plain_numbers(ax)
  ax.set(xlabel='steps, all on as many examples',
         title='Ramps and fixed batches')
