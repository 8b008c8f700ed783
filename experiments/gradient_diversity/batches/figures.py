"""The figures of `gradient_diversity --study=batches`."""

import numpy as np

from experiments.common import intervals, plots
from experiments.gradient_diversity.batches import analysis
from experiments.gradient_diversity.batches.claims import (
  PAPER_DISTANCES,
  large,
  paper_ratios,
)

DIAMOND = dict(ls='none', marker='D', mfc='white', mec='#222222')


def collapse(config, reduced, claims):
  """Show gradients to the target over the fewest, against B over ρ.

  The prediction for a set is a·(B + ρ) gradients, with the noise scale ρ that
  was measured along the run. Over its limit a·ρ for small batches, all sets
  share one curve, 1 + B/ρ.
  """
  del claims
  figure, ((ax,),) = plots.panels(height=4.2)
  predicted = analysis.predicted_counts(config, reduced)
  reach = []
  for r, style in _styles(config):
    counts, line = reduced.counts.sel(replication=r), predicted.sel(
      replication=r)
    known = np.isfinite(line.values) & np.isfinite(counts.values).all(-1)
    if known.sum() < 2:
      continue
    sizes = line['batch'].values[known]
    slope, offset = np.polyfit(sizes, line.values[known], 1)
    scale = offset / slope
    _bars(ax, sizes / scale, counts.values[known] / offset, style,
          label=f'r = {r:g}: ρ = {scale:.0f}')
    reach += [sizes[0] / scale, sizes[-1] / scale]
  low, high = (min(reach) / 1.3, max(reach) * 1.4) if reach else (0.1, 10.)
  curve = np.geomspace(low, high, 200)
  ax.plot(curve, 1 + curve, color='#222222', lw=1.5, zorder=0)
  at = 0.72 * np.sqrt(high)
  ax.annotate('predicted:\n$1 + B/\\rho$', (at, 1 + at), (0.5 * at, 3 * at),
              ha='center', arrowprops={'arrowstyle': '-', 'color': '#888888'})
  ax.axvspan(low, 1, color='#eeeeee', lw=0, zorder=-1)
  for x, text in ((0.02, 'a larger batch\nis almost free'),
                  (0.98, 'a larger batch\nwastes gradients')):
    ax.text(x, 0.97, text, transform=ax.transAxes, va='top',
            ha='left' if x < 0.5 else 'right', color='#444444')
  ax.set(xscale='log', yscale='log', xlim=(low, high), ylim=(0.7, 2.2 * high),
         xlabel='batch size $B$ over noise scale $\\rho$',
         ylabel=f'gradients to loss {config.target_loss:g},\nover the fewest',
         title='The noise scale says how large a batch pays')
  ax.set_yticks([1, 2, 5, 10, 20, 50])
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_formatter('{x:g}')
  ax.yaxis.set_minor_locator(plots.no_ticks())
  ax.legend(loc='lower right', title='each example $r$ times\n(bars: 95 %)')
  return figure


def loss_ratio(config, reduced, claims):
  """Show what large batches lose, by batch size and r, and in the paper."""
  figure, ((left, right),) = plots.panels(
    2, height=3.4, width_ratios=(1.25, 1))
  small, big = config.batch_sizes[0], large(config)
  for r, style in _styles(config):
    runs = reduced.ratios.sel(replication=r)
    _bars(left, config.batch_sizes, runs.values, style | {'ls': '-'},
          label=f'r = {r:g}')
  plots.label_sizes(left, config.batch_sizes)
  left.tick_params(axis='x', labelrotation=45)
  _log_scale(left).set(
    xlabel='batch size $B$', ylabel=f'loss($B$) / loss({small})',
    title='Large batches lose in as many\npasses (bars: 95 %)')
  left.legend()
  panel, paper = paper_ratios(config)
  rows = np.arange(len(config.replications))
  for row, (r, style) in zip(rows, _styles(config)):
    found = intervals.of_mean(reduced.ratios.sel(replication=r, batch=big))
    right.plot([found.low, found.high], [row, row], color=style['color'])
    right.plot(found.value, row, **style)
  right.plot([paper.get(r, np.nan) for r in config.replications], rows,
             **DIAMOND, label=f'the paper, {panel}')
  right.set_yticks(rows, [f'r = {r:g}' for r in config.replications])
  right.set(xscale='log', xlabel=f'loss({big}) / loss({small})',
            ylim=(len(rows) - 0.5, -0.9))
  right.set_title(_verdict(claims))
  right.grid(axis='y', visible=False)
  right.xaxis.set_major_formatter('{x:g}')
  if paper:
    right.legend(loc='upper right')
  return figure


def stability(config, reduced, claims):
  """Show how far apart twin runs are, along training and at its end."""
  figure, ((left, right),) = plots.panels(2, height=3.4)
  far = reduced.distance
  for size, color in zip(config.batch_sizes,
                         plots.shades(len(config.batch_sizes))):
    left.plot(far['pass'], far.sel(batch=size).mean('seed'), color=color,
              lw=1.4, label=f'{size}')
  left.set(xlabel='passes over the training set',
           ylabel='distance of twin runs (0 to √2)',
           title='Training sets that differ\nin one example')
  plots.label_lines(left)
  _bars(right, config.batch_sizes, far.isel({'pass': -1}).values,
        {'color': plots.COLORS[0], 'marker': 'o', 'ls': '-'},
        label='here (bars: 95 %)')
  shown = {size: x for size, x in PAPER_DISTANCES.items()
           if size in config.batch_sizes}
  right.plot(list(shown), list(shown.values()), **DIAMOND,
             label='the paper, Fig. 3a')
  plots.label_sizes(right, config.batch_sizes)
  right.tick_params(axis='x', labelrotation=45)
  _log_scale(right).set(
    xlabel='batch size $B$', ylabel=f'distance after {config.passes} passes',
    title=_ending(claims))
  right.legend()
  return figure


def diversity(config, reduced, claims):
  """Show B_S along the training: one run with its band, and all r."""
  del claims
  figure, ((left, right),) = plots.panels(2, height=3.4, sharey=True)
  bands = reduced.bands.sel(source='workers')
  one = bands.isel(replication=0, seed=0)
  color, is_known = plots.COLORS[0], one['window'] > 0
  known = one.where(is_known)
  left.fill_between(
    one['passes'], 1 / known['high'], 1 / known['low'], color=color, alpha=0.25,
    lw=0, label='known to a factor of 2: 95 %')
  left.plot(one['passes'], 1 / known['value'], color=color, lw=1.4,
            label=f'{config.num_workers} workers: estimate')
  left.plot(one['passes'], 1 / one['bound'].where(~is_known), color='#888888',
            lw=1, marker=6, markevery=max(1, one.sizes['step'] // 24),
            label='else: at least')
  shown = (bands['exact'] if 'exact' in bands
           else bands['value'].where(bands['window'] > 0))
  for r, style in _styles(config):
    right.plot(bands['passes'], 1 / shown.sel(replication=r).mean('seed'),
               color=style['color'], label=f'r = {r:g}')
  if 'exact' in bands:
    left.plot(one['passes'], 1 / one['exact'], color='#222222', lw=1.2,
              label='whole set: exact')
  for ax in (left, right):
    ax.axhline(config.reference_batch_size, color='#888888', lw=1, ls=':')
    ax.set(xlabel='passes over the training set')
  right.annotate(f'batch {config.reference_batch_size}', (
    0.98, config.reference_batch_size), xycoords=('axes fraction', 'data'),
    xytext=(0, -3), textcoords='offset points', ha='right', va='top',
    color='#666666', fontsize=8)
  _log_scale(left)
  left.set(ylabel='$B_S$ over the chosen window (examples)',
           title='What the workers track\n(one run, $r$ = 1)')
  right.set_title('$B_S$ grows along the training\n(mean of all runs)')
  left.legend()
  plots.label_lines(right)
  return figure


def _verdict(claims):
  """Say in how many steps from one r to the next the paper's order holds."""
  order = [claim for claim in claims if claim.key.startswith('order_')]
  holds = sum(claim.verdict == 'holds' for claim in order)
  return f"The paper's order of $r$: {holds} of\n{len(order)} comparisons hold"


def _ending(claims):
  """Say whether larger batches end further apart, as in the paper."""
  verdicts = [claim.verdict for claim in claims
              if claim.key.startswith('distance_')]
  if verdicts and all(verdict == 'holds' for verdict in verdicts):
    return 'Larger batches end further\napart, as in the paper'
  return ('Larger batches end nearer,\nunlike in the paper'
          if 'fails' in verdicts else 'Distance at the end')


def _styles(config):
  """Pair each r with its color and marker, the same in every figure."""
  styles = [{'color': color, 'marker': marker, 'ls': 'none'}
            for color, marker in zip(plots.COLORS, plots.MARKERS)]
  return zip(config.replications, styles)


def _log_scale(ax):
  """Use a logarithmic y-axis, with plain numbers at its decades."""
  plots.log_scale(ax).yaxis.set_major_formatter('{x:g}')
  return ax


def _bars(ax, x, runs, style, **options):
  """Draw the means of runs [x, seed] with their 95 % intervals."""
  found = np.array([intervals.of_mean(row) for row in runs])
  means = runs.mean(-1)
  reach = np.abs(np.nan_to_num(found[:, 1:] - found[:, :1])).T
  reach[0] = np.minimum(reach[0], 0.95 * means)  # stays above zero
  ax.errorbar(x, means, reach, capsize=2, elinewidth=1, **style, **options)
