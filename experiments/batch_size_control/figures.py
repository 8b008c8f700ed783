"""The figures of `batch_size_control`."""

import numpy as np

from experiments.batch_size_control.analysis import ARMS
from experiments.common import marks, plots

STYLE = {arm: {'color': color, 'marker': marker, 'label': label}
         for (arm, label), color, marker in zip(
           ARMS.items(), plots.COLORS, plots.MARKERS[1:])}


def control(config, reduced, claims):
  """Show the batch sizes along the training, and steps against gradients."""
  del claims
  figure, ((left, right),) = plots.panels(2)
  noise = _geometric(reduced['noise_scale'])
  left.plot(noise['small'], noise, color='#888888', lw=1,
            label='noise scale, exact')
  for arm, style in STYLE.items():
    _along(left, config, reduced.sel(controlled=arm), style)
  plots.label_sizes(left, (4, 16, 64, 256, 1024), 'y').legend()
  left.set(xlabel='scale-invariant iterations', ylabel='batch size',
           title='What controllers choose')
  _front(right, config, reduced)
  return figure


def _front(ax, config, reduced):
  """Draw what each arm takes to one loss: below the line is better."""
  sizes = [str(size) for size in config.batch_sizes]
  at = lambda arm: [_geometric(reduced[name].sel(arm=arm))
                    for name in ('gradients', 'steps')]
  x, y = at(sizes)
  ax.plot(x, y, 'o-', color='#888888', label='fixed')
  for size, *place in zip(sizes, x.values, y.values):
    ax.annotate(size, place, xytext=(4, 4), textcoords='offset points',
                fontsize=8, color='#555555')
  for arm, style in STYLE.items():
    ax.plot(*at(arm), ls='none', **style)
  # Nothing is positive where every run has diverged.
  scale = 'log' if np.isfinite(ax.dataLim.minpos).all() else 'linear'
  ax.set(xscale=scale, yscale=scale, xlabel='gradients', ylabel='steps',
         title=f'What the loss of batch {reduced.attrs["best"]} takes')
  plots.plain_numbers(ax)
  plots.label_sizes(ax, (10_000, 20_000, 40_000))
  ax.legend()


def _along(ax, config, runs, style):
  """Draw the mean batch size of the seeds at each scale-invariant iteration."""
  progress, size = (runs[name].transpose('seed', 'step').values
                    for name in ('progress', 'batch_size'))
  at = np.arange(np.nanmin(np.nanmax(progress, -1)))
  sizes = [np.interp(at, x[np.isfinite(x)], np.log(y[np.isfinite(x)]))
           for x, y in zip(progress, size)]
  ax.plot(at, np.exp(np.mean(sizes, 0)), color=style['color'],
          label=style['label'])


def lengths(config, reduced, claims):
  """Show the loss against steps and gradients, of runs of several lengths."""
  del claims
  figure, (axes,) = plots.panels(2, height=3.6, sharey=True)
  best, sizes = reduced.attrs['best'], list(map(str, config.batch_sizes))
  target = _geometric(reduced['held_out_loss'].sel(
    arm=best, length=config.lengths[0]), 'held_out')
  for ax, name in zip(axes, ('steps', 'gradients')):
    for size, color in zip(sizes, plots.shades(len(sizes))):
      _curve(ax, reduced, size, name, color=color, marker='.', ls=':',
             label=f'batch {size}')
    for arm, style in STYLE.items():
      _curve(ax, reduced, arm, name, **style)
    ax.axhline(target, color=marks.INK, lw=0.8)
    if np.isfinite(ax.dataLim.minposy):
      ax.set_yscale('log')
    ax.set_xlabel(name)
  marks.level(axes[1], target, f'batch {best} after {config.lengths[0]}')
  plots.label_sizes(axes[0], (100, 200, 400, 800))
  plots.label_sizes(axes[1], (10_000, 20_000, 40_000))
  plots.plain_numbers(axes[0]).set_ylabel('training loss, held-out seeds')
  axes[0].set_title('The longer, the lower')
  figure.legend(*axes[0].get_legend_handles_labels(), ncols=5, fontsize=7,
                loc='outside lower center')
  return figure


def _curve(ax, reduced, arm, name, **style):
  """Draw the loss of an arm after each length, against what it has taken."""
  ax.plot(*(_geometric(reduced[f'held_out_{x}'].sel(arm=arm), 'held_out')
            for x in (name, 'loss')), **style)


def _geometric(x, dim='seed'):
  return np.exp(np.log(x).mean(dim))
