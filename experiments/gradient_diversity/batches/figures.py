"""The figures of `gradient_diversity --study=batches`. Bars are 95 %."""

import math
import textwrap

import numpy as np

from experiments.common import intervals, marks, plots
from experiments.gradient_diversity.batches import analysis
from experiments.gradient_diversity.batches.claims import (
  PAPER_DISTANCES,
  large,
  paper_ratios,
)


def collapse(config, reduced, claims):
  """Show gradients to the target over the fewest, against B over ρ.

  The prediction for a set is a·(B + ρ) gradients, with the noise scale ρ that
  was measured along the run. Over its limit a·ρ for small batches, all sets
  share one curve, 1 + B/ρ.
  """
  figure, ((ax,),) = plots.panels(height=4.2)
  predicted = analysis.predicted_counts(config, reduced)
  reach = []
  for r, style in _styles(config):
    counts, line = (x.sel(replication=r) for x in (reduced.counts, predicted))
    known = np.isfinite(line.values) & np.isfinite(counts.values).all(-1)
    if known.sum() < 2:
      continue
    sizes = line['batch'].values[known]
    slope, offset = np.polyfit(sizes, line.values[known], 1)
    if not (slope > 0 and offset > 0):  # all reach the target at once
      continue
    scale = offset / slope
    _bars(ax, sizes / scale, counts.values[known] / offset,
          label=f'r = {r:g}: ρ = {scale:.0f}', **style)
    reach += [sizes[0] / scale, sizes[-1] / scale]
  low, high = (min(reach) / 1.3, max(reach) * 1.4) if reach else (0.1, 10.)
  curve = np.geomspace(low, high, 200)
  ax.plot(curve, 1 + curve, color=marks.INK, lw=1.5, zorder=0)
  at = 0.72 * np.sqrt(high)
  ax.annotate('predicted:\n$1 + B/\\rho$', (at, 1 + at), (0.5 * at, 3 * at),
              ha='center', arrowprops={'arrowstyle': '-', 'color': '#888888'})
  ax.axvspan(low, 1, color='#eeeeee', lw=0, zorder=-1)
  for x, side, text in ((0.02, 'left', 'a larger batch\nis almost free'),
                        (0.98, 'right', 'a larger batch\nwastes gradients')):
    ax.text(x, 0.97, text, transform=ax.transAxes, va='top', ha=side,
            color='#444444')
  ax.set(xscale='log', yscale='log', xlim=(low, high), ylim=(0.7, 2.2 * high),
         xlabel='batch size $B$ over noise scale $\\rho$',
         ylabel=f'gradients to loss {config.target_loss:g},\nover the fewest',
         title='The noise scale says how large a batch pays')
  ax.set_yticks([1, 2, 5, 10, 20, 50])
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_formatter('{x:g}')
  ax.yaxis.set_minor_locator(plots.no_ticks())
  if reach:
    ax.legend(loc='lower right', title='each example $r$ times\n(bars: 95 %)')
  return figure


def loss_ratio(config, reduced, claims):
  """Show what large batches lose, by batch size and r, and in the paper."""
  figure, ((left, right),) = plots.panels(
    2, height=3.4, width_ratios=(1.25, 1))
  big, (panel, paper) = large(config), paper_ratios(config)
  ratio = f'loss({{}}) / loss({config.batch_sizes[0]})'.format
  for row, (r, style) in enumerate(_styles(config)):
    runs = reduced.ratios.sel(replication=r)
    _bars(left, config.batch_sizes, runs.values, ls='-', label=f'r = {r:g}',
          **style)
    marks.points(right, [row], intervals.of_mean(runs.sel(batch=big)),
                 in_rows=True, elinewidth=1.8, **style)
  _by_batch(left, config).set(
    ylabel=ratio('$B$'),
    title='Large batches lose in as many\npasses (bars: 95 %)')
  left.legend()
  right.plot([paper.get(r, np.nan) for r in config.replications],
             range(len(config.replications)), **marks.PAPER,
             label=f'the paper, {panel}')
  marks.row_names(right, [f'r = {r:g}' for r in config.replications])
  order = [claim for claim in claims if claim.key.startswith('order_')]
  holds = sum(claim.verdict == 'holds' for claim in order)
  plots.log_scale(right, 'x').set(
    xlabel=ratio(big), ylim=(len(config.replications) - 0.5, -0.9),
    title=f"The paper's order of $r$: {holds} of\n{len(order)} "
    'comparisons hold')
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
        color=plots.COLORS[0], ls='-', label='here (bars: 95 %)')
  shown = {size: x for size, x in PAPER_DISTANCES.items()
           if size in config.batch_sizes}
  right.plot(list(shown), list(shown.values()), **marks.PAPER,
             label='the paper, Fig. 3a, as plotted')
  _by_batch(right, config).set(
    ylabel=f'distance after {config.passes} passes', title=_ending(claims))
  right.axhline(math.sqrt(2), color='#888888', lw=1, ls=':')
  marks.level(right, 1.35, 'most that the formula can give: √2', at=0.02,
              va='top', color='#666666')
  right.set_ylim(bottom=right.get_ylim()[0] / 4)  # for the legend
  right.legend(loc='lower left')
  return figure


def diversity(config, reduced, claims):
  """Show B_S along the training: one run with its band, and all r."""
  figure, ((left, right),) = plots.panels(2, height=3.4, sharey=True)
  bands = reduced.bands.sel(source='workers')
  passes, one = bands['passes'], bands.isel(replication=0, seed=0)
  is_known, bounds = one['window'] > 0, 1 / one
  known, color = bounds.where(is_known), plots.COLORS[0]
  left.fill_between(
    passes, known['high'], known['low'], color=color, alpha=0.25, lw=0,
    label='known to a factor of 2: 95 %')
  left.plot(passes, known['value'], color=color, lw=1.4,
            label=f'{config.num_workers} workers: estimate')
  left.plot(passes, bounds['bound'].where(~is_known), color='#888888', lw=1,
            marker=6, markevery=max(1, len(passes) // 24),
            label='else: at least')
  if 'exact' in bands:
    left.plot(passes, bounds['exact'], color=marks.INK, lw=1.2,
              label='whole set: exact')
  shown = (bands['exact'] if 'exact' in bands
           else bands['value'].where(bands['window'] > 0))
  for r, style in _styles(config):
    right.plot(passes, 1 / shown.sel(replication=r).mean('seed'),
               color=style['color'], label=f'r = {r:g}')
  size = config.reference_batch_size
  for ax in (left, right):
    ax.axhline(size, color='#888888', lw=1, ls=':')
    ax.set(xlabel='passes over the training set')
  marks.level(right, 0.97 * size, f'batch {size}', va='top', fontsize=8,
              color='#666666')
  plots.log_scale(left).yaxis.set_major_formatter('{x:g}')
  left.set(ylabel='batch-size bound $B_S$ (examples),\nover the chosen window',
           title='What the workers track\n(one run, $r$ = 1)')
  right.set_title('$B_S$ grows along the training\n(mean of all runs)')
  left.legend()
  plots.label_lines(right)
  said = str(reduced.advice.values[0]).split(';')[0]
  figure.supxlabel(textwrap.fill(
    f'In the end, `gradiv.advise` says: {said}', 80), fontsize=8,
    color='#444444')
  return figure


def _ending(claims):
  """Say whether larger batches end further apart, as in the paper."""
  verdicts = [claim.verdict for claim in claims
              if claim.key.startswith('distance_')]
  if set(verdicts) == {'holds'}:
    return 'Larger batches end further\napart, as in the paper'
  return ('Larger batches end nearer,\nunlike in the paper'
          if 'fails' in verdicts else 'Distance at the end')


def _styles(config):
  """Pair each r with its color and marker, the same in every figure."""
  return zip(config.replications, (
    {'color': color, 'marker': marker}
    for color, marker in zip(plots.COLORS, plots.MARKERS)))


def _bars(ax, x, runs, **style):
  """Draw the means of runs [x, seed], with caps at the ends of their bars."""
  marks.means(ax, x, runs, capsize=2, elinewidth=1, **style)


def _by_batch(ax, config):
  """Use logarithmic axes: batch sizes, and numbers as they are."""
  plots.label_sizes(ax, config.batch_sizes).set(xlabel='batch size $B$')
  ax.tick_params(axis='x', labelrotation=45)
  plots.log_scale(ax).yaxis.set_major_formatter('{x:g}')
  return ax
