"""The figures of sparse data and of the network."""

import numpy as np

from experiments.common import intervals, plots
from experiments.critical_parameters.figures import INK, explain_bars, points


def sparse(config, reduced, claims):
  """Show the critical delay by 1/Δ and by 1 + M."""
  del claims
  found = reduced.sparse
  if found is None:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.3, sharey=True)
  is_one_hot = found['support'].values == 1
  groups = ('one nonzero entry per row,\n$d$ varies', is_one_hot), (
    f'$k$ nonzero entries per row,\n$d$ = {config.sparse_dimensions[-2]}',
    ~is_one_hot)
  density = 1 / found['density'].values
  bound = 1 + found['noise_ratio'].values
  for ax, x, name in ((left, density, r'1/\Delta'), (right, bound, '1 + M')):
    ax.plot([x.min(), x.max()], [x.min(), x.max()], color=INK, lw=1,
            ls='--', zorder=1)
    ax.annotate(f'dashed: delay = ${name}$', (0.02, 0.99), fontsize=8,
                xycoords='axes fraction', va='top')
    for i, (label, own) in enumerate(groups):
      points(ax, x[own], found['delay'].values[own], i, ls='none', label=label)
    ax.set_xscale('log', base=2)
    ax.set_yscale('log', base=2)
    ax.margins(x=0.1)
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter(lambda value, _: f'{value:g}')
  for place, k, runs in zip(density, found['support'].values,
                            found['delay'].values):
    if k > 1:
      left.annotate(f'$k$ = {k}', (place, np.mean(runs)), (0, 7), ha='center',
                    textcoords='offset points', fontsize=7.5)
  left.set(xlabel=r'$1/\Delta$: sparsity',
           ylabel='delay that doubles the steps',
           title='Sparsity alone does not\nset the critical delay')
  right.set(xlabel='$1 + M$: noise of the gradient',
            title='$M$ predicts the critical\ndelay of all data')
  left.legend(loc='lower right', fontsize=7)
  explain_bars(figure, config)
  return figure


def network(config, reduced, claims):
  """Show that larger batches save fewer and fewer steps, and four numbers."""
  del claims
  found = reduced.network
  if found is None:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.1)
  sizes, critical = config.network_batch_sizes, found.critical
  batch = intervals.of_mean(critical['batch']).value
  least = found.steps[sizes[-1], 0].mean() / (1 + batch / sizes[-1])
  x = np.geomspace(sizes[0], sizes[-1])
  left.plot(x, least * (1 + batch / x), color=INK, lw=1, ls='--', zorder=1,
            label=f'$T_0\\,(1 + {batch:.0f}/b)$')
  points(left, sizes, [found.steps[b, 0] for b in sizes], 0, ls='none',
         label='measured')
  plots.label_sizes(left, sizes)
  plots.plain_numbers(plots.log_scale(left)).set(
    xlabel='batch size $b$ (examples)',
    ylabel=f'steps to a loss of {config.target_loss:g}',
    title='Larger batches save\nfewer and fewer steps')
  left.legend(loc='upper right')
  rows = (
    ('critical batch', 'batch'),
    (f'$b\\;\\times$ critical\ndelay, $b$ = {sizes[0]}', 'delay'),
    (f'$b\\;\\times$ critical\ndelay, $b$ = {sizes[1]}', 'second_delay'),
    ('mean $M$ tracked\nin training', 'tracked'))
  for i, (_, name) in enumerate(rows):
    value, low, high = intervals.of_mean(critical[name])
    right.plot([low, high], [i, i], color=plots.COLORS[i], lw=3,
               solid_capstyle='butt')
    right.plot(value, i, 'o', color=plots.COLORS[i], ms=6)
  right.set_yticks(range(len(rows)), [label for label, _ in rows])
  right.invert_yaxis()
  right.grid(axis='y', visible=False)
  right.set(xlim=(0, None), ylim=(len(rows) - 0.5, -0.5),
            xlabel='examples',
            title='Batch, delay and noise give\nnumbers of the same size')
  explain_bars(figure, config)
  return figure


def course(config, reduced, claims):
  """Show what delay costs, and the M tracked along the training."""
  del claims
  found = reduced.network
  if found is None:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.1)
  sizes, taus = config.network_batch_sizes, (0, *config.network_stalenesses)
  batch = intervals.of_mean(found.critical['batch'])
  for i, b in enumerate(sizes[:2]):
    base = found.steps[b, 0].mean()
    points(left, taus, [found.steps[b, tau] / base for tau in taus], i + 1,
           ls='none', label=f'$b$ = {b}')
    left.plot(taus, 1 + np.array(taus) / (1 + batch.value / b), lw=1.2,
              color=plots.COLORS[i + 1], ls='--')
  left.set(xlabel=r'delay $\tau$ (steps)', ylim=(0, None),
           ylabel='steps, over those without delay',
           title='Delay costs about what the\ncritical batch predicts (dashed)')
  left.legend(loc='upper left')
  with np.errstate(divide='ignore'):
    tracked = np.median(1 / found.course.values - 1, 0)
  right.plot(found.course['step'], tracked, color=plots.COLORS[3])
  right.axhspan(batch.low, batch.high, color=plots.COLORS[0], alpha=0.18, lw=0)
  right.annotate('critical batch', (0.98, batch.value), ha='right',
                 va='center', xycoords=('axes fraction', 'data'), fontsize=8,
                 color=plots.COLORS[0])
  reached = found.steps[sizes[0], 0].mean()
  right.axvline(reached, color=INK, lw=1)
  right.annotate(f'loss {config.target_loss:g}', (reached, 0.97), (4, 0),
                 xycoords=('data', 'axes fraction'), va='top', fontsize=8,
                 textcoords='offset points')
  plots.plain_numbers(plots.log_scale(right)).set(
    xlabel=f'step, with $b$ = {sizes[0]}', ylabel='$M$ (examples)',
    title='The tracked $M$ grows during\ntraining (median of the runs)')
  explain_bars(figure, config)
  return figure
