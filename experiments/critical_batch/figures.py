"""The figures of `critical_batch`."""

import numpy as np

from experiments.common import intervals, marks, plots
from experiments.critical_batch import analysis
from experiments.critical_batch.claims import WORDS

STYLE = {'bound': ('$B_S$', plots.COLORS[0], 's', 0.92),
         'predicted': ('predicted at the tolerance', plots.COLORS[4], '^', 1.0),
         'measured': ('measured by branches', plots.COLORS[1], 'o', 1.09)}


def _of_domain(domain):
  """Make the figure of a domain's branches, from the first and the last point.
  """
  def draw(config, reduced, claims):
    del claims
    if domain not in reduced:
      return None
    figure, (axes,) = plots.panels(2, height=2.9)
    points = config.points[::len(config.points) - 1 or 1]
    for ax, point in zip(axes, points):
      _branches(ax, config, domain, reduced[domain], point)
    for ax in axes[len(points):]:
      ax.set_axis_off()
    axes[0].set_ylabel('training loss, smoothed')
    axes[0].legend(ncols=2, fontsize=7, loc='upper right')
    marks.explain(figure, 'Lines that leave a panel are of losses that rise.')
    return figure

  return draw


def _branches(ax, config, domain, found, point):
  setting = config.setting(domain)
  log_loss = found['log_loss'].sel(point=point).mean('seed').values
  seen = setting.batch_size * config.record_steps * np.arange(
    log_loss.shape[1])
  for size, color, line in zip(
      setting.sizes, plots.shades(len(setting.sizes)), log_loss):
    ax.plot(seen, np.exp(line), color=color, lw=1.6, label=f'batch {size}')
  top = np.exp(log_loss[0, -1] + setting.slack)
  ax.axhline(top, color=marks.INK, lw=0.8, ls=':')
  marks.level(ax, top, 'tolerance', at=0.01)
  low, start = np.exp(log_loss.min()), np.exp(log_loss[0, 0])
  fall = (start - low) or start
  ax.set_ylim(low - 0.1 * fall, start + 1.2 * fall)
  ax.set(title=f'{WORDS[domain]}, from step {point:,}',
         xlabel='examples seen by the branch')


branches_images, branches_text = map(_of_domain, ('images', 'text'))


def critical(config, reduced, claims):
  """Show the critical batch sizes, measured and predicted."""
  del claims
  figure, (axes,) = plots.panels(len(reduced))
  for ax, (domain, found) in zip(axes, reduced.items()):
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
  axes[0].set_ylabel('critical batch size\n(95 % intervals)')
  axes[0].legend(fontsize=7, loc='upper left', bbox_to_anchor=(0, 0.93))
  return figure


def ramps(config, reduced, claims):
  """Show what ramps by the critical batch sizes cost."""
  del claims
  figure, (axes,) = plots.panels(len(reduced))
  for ax, (domain, found) in zip(axes, reduced.items()):
    _ramps(config, ax, found)
    ax.set_title(WORDS[domain])
  axes[0].set_ylabel("last loss / small batch's\n(95 % intervals)")
  axes[0].legend(fontsize=7, loc='lower left')
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
  ax.set_xlabel('steps, all on as many examples')
