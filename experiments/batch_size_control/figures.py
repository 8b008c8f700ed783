"""The figure of `batch_size_control`."""

import numpy as np

from experiments.batch_size_control.analysis import ARMS
from experiments.common import plots


def control(config, reduced, claims):
  """Show the batch sizes along the training, and steps against gradients."""
  del claims
  figure, ((left, right),) = plots.panels(2)
  geometric = lambda x: np.exp(np.log(x).mean('seed'))
  noise = geometric(reduced['noise_scale'])
  left.plot(noise['small'], noise, color='#888888', lw=1,
            label='noise scale, exact')
  sizes = [str(size) for size in config.batch_sizes]
  fixed = reduced.sel(arm=sizes)
  x, y = (geometric(fixed[name]) for name in ('gradients', 'steps'))
  right.plot(x, y, 'o-', color='#888888', label='fixed')
  for at, size in enumerate(sizes):
    right.annotate(size, (x[at], y[at]), xytext=(4, 4),
                   textcoords='offset points', fontsize=8, color='#555555')
  for (arm, label), color, marker in zip(
      ARMS.items(), plots.COLORS, plots.MARKERS[1:]):
    _along(left, config, reduced.sel(controlled=arm), color, label)
    one = reduced.sel(arm=arm)
    right.plot(geometric(one['gradients']), geometric(one['steps']), marker,
               color=color, label=label)
  plots.label_sizes(left, (4, 16, 64, 256, 1024), 'y').legend()
  left.set(xlabel='scale-invariant iterations', ylabel='batch size',
           title='The batch grows as far as $B_S$ is known')
  plots.log_scale(right).set(xlabel='gradients', ylabel='steps',
                             title='Few steps, and few gradients')
  plots.plain_numbers(right)
  plots.label_sizes(right, (10_000, 20_000, 40_000))
  right.legend()
  return figure


def _along(ax, config, runs, color, label):
  """Draw the mean batch size of the seeds at each scale-invariant iteration."""
  at = np.arange(config.steps)
  sizes = [np.interp(at, progress, np.log(size)) for progress, size in zip(
    runs['progress'].transpose('seed', 'step').values,
    runs['batch_size'].transpose('seed', 'step').values)]
  ax.plot(at, np.exp(np.mean(sizes, 0)), color=color, label=label)
