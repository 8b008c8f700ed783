"""The figures of sparse data and of the network."""

import numpy as np

from experiments.common import intervals, marks, plots
from experiments.critical_parameters.figures import (
  explain_bars,
  of_study,
  points,
)


@of_study('sparse')
def sparse(config, found):
  """Show the critical delay by 1/Δ and by 1 + M."""
  figure, ((left, right),) = plots.panels(2, height=3.3, sharey=True)
  is_one_hot = found['support'].values == 1
  groups = (('one nonzero entry per row,\n$d$ varies', is_one_hot), (
    f'$k$ nonzero entries per row,\n$d$ = {config.sparse_dimensions[-2]}',
    ~is_one_hot))
  sparsity, bound = 1 / found['density'].values, 1 + found['noise_ratio'].values
  for ax, x, name in ((left, sparsity, r'1/\Delta'), (right, bound, '1 + M')):
    ax.plot([x.min(), x.max()], [x.min(), x.max()], color=marks.INK, lw=1,
            ls='--', zorder=1)
    ax.annotate(f'dashed: delay = ${name}$', (0.02, 0.99), fontsize=8,
                xycoords='axes fraction', va='top')
    for i, (label, own) in enumerate(groups):
      points(ax, x[own], found['delay'].values[own], i, label=label)
    for scale, axis in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
      scale('log', base=2)
      axis.set_major_formatter('{x:g}')
    ax.margins(x=0.1)
  for place, k, delay in zip(sparsity, found['support'].values,
                             found['delay'].mean('run', skipna=False).values):
    if k > 1:
      left.annotate(f'$k$ = {k}', (place, delay), (0, 7), ha='center',
                    textcoords='offset points', fontsize=7.5)
  left.set(xlabel=r'sparsity $1/\Delta$: rows per use of a coordinate',
           ylabel='delay that doubles the steps',
           title='Sparsity alone does not\nset the critical delay')
  right.set(xlabel='gradient noise $1 + M$',
            title='The noise $M$ predicts the\ncritical delay of all data')
  left.legend(loc='lower right', fontsize=7)
  explain_bars(figure, config)
  return figure


@of_study('network')
def network(config, found):
  """Show that larger batches save fewer and fewer steps, and four numbers."""
  figure, ((left, right),) = plots.panels(2, height=3.1)
  sizes, critical = config.network_batch_sizes, found.critical
  batch = intervals.of_mean(critical['batch']).value
  least = found.steps[sizes[-1], 0].mean() / (1 + batch / sizes[-1])
  x = np.geomspace(sizes[0], sizes[-1])
  left.plot(x, least * (1 + batch / x), color=marks.INK, lw=1, ls='--',
            zorder=1, label=f'$T_0\\,(1 + {batch:.0f}/b)$')
  points(left, sizes, [found.steps[b, 0] for b in sizes], 0, label='measured')
  plots.label_sizes(left, sizes)
  plots.plain_numbers(plots.log_scale(left)).set(
    xlabel='batch size $b$ (examples)',
    ylabel=f'steps to a loss of {config.target_loss:g}',
    title='Larger batches save\nfewer and fewer steps')
  left.legend(loc='upper right')
  rows = {
    'batch': 'critical batch',
    'delay': f'$b\\;\\times$ critical\ndelay, $b$ = {sizes[0]}',
    'second_delay': f'$b\\;\\times$ critical\ndelay, $b$ = {sizes[1]}',
    'tracked': 'gradient noise $M$,\ntracked in training'}
  for i, name in enumerate(rows):
    marks.points(right, [i], intervals.of_mean(critical[name]), in_rows=True,
                 color=plots.COLORS[i], elinewidth=3, ms=6)
  marks.row_names(right, rows.values())
  right.set(xlim=(0, None), xlabel='examples',
            title='Batch, delay and noise give\nnumbers of the same size')
  explain_bars(figure, config)
  return figure


@of_study('network')
def course(config, found):
  """Show what delay costs, and the M tracked along the training."""
  figure, ((left, right),) = plots.panels(2, height=3.1)
  sizes, taus = config.network_batch_sizes, (0, *config.network_stalenesses)
  batch = intervals.of_mean(found.critical['batch'])
  for i, b in enumerate(sizes[:2], 1):
    base = found.steps[b, 0].mean()
    points(left, taus, [found.steps[b, tau] / base for tau in taus], i,
           label=f'$b$ = {b}')
    left.plot(taus, 1 + np.array(taus) / (1 + batch.value / b), lw=1.2,
              color=plots.COLORS[i], ls='--')
  left.set(xlabel=r'delay $\tau$ (steps)', ylim=(0, None),
           ylabel='steps, over those without delay',
           title='Delay costs about what the\ncritical batch predicts (dashed)')
  left.legend(loc='upper left', title='batch size')
  with np.errstate(divide='ignore'):
    tracked = np.median(1 / found.course.values - 1, 0)
  right.plot(found.course['step'], tracked, color=plots.COLORS[3])
  right.axhspan(batch.low, batch.high, color=plots.COLORS[0], alpha=0.18, lw=0)
  marks.level(right, batch.value, 'critical batch', va='center', fontsize=8,
              color=plots.COLORS[0])
  reached = found.steps[sizes[0], 0].mean()
  right.axvline(reached, color=marks.INK, lw=1)
  right.annotate(f'loss {config.target_loss:g}', (reached, 0.97), (4, 0),
                 xycoords=('data', 'axes fraction'), va='top', fontsize=8,
                 textcoords='offset points')
  plots.plain_numbers(plots.log_scale(right)).set(
    xlabel=f'step, with batches of {sizes[0]}',
    ylabel='gradient noise $M$ (examples)',
    title='The tracked noise grows during\ntraining (median of the runs)')
  explain_bars(figure, config)
  return figure
