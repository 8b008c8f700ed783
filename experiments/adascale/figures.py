"""The figure of `adascale`."""

import numpy as np

from experiments.adascale.analysis import LOSS
from experiments.common import intervals, plots

STYLE = {'linear': ('linear scaling', plots.COLORS[1], 's'),
         'root': ('square-root scaling', plots.COLORS[4], 'v'),
         'identity': ('identity scaling', plots.COLORS[2], '^'),
         'constant': ('constant gain', plots.COLORS[3], 'D'),
         'adascale': ('AdaScale', plots.COLORS[0], 'o')}  # drawn last


def scaling(config, reduced, claims):
  """Show the loss that each arm ends with, and the steps that it takes."""
  figure, ((left, right),) = plots.panels(2)
  for arm, (label, color, marker) in STYLE.items():
    for ax, name in ((left, 'loss'), (right, 'steps')):
      x, *ends = np.array([intervals.of_mean(runs, log=True) for runs in
                           reduced[name].sel(arm=arm).values]).T
      ax.errorbar(config.scales, x, np.abs(ends - x), color=color,
                  marker=marker, label=label if ax is left else None)
  right.plot(config.scales, reduced['predicted'].mean('seed'), 'k--', lw=1.2,
             label='AdaScale, predicted', zorder=3)
  for ax in (left, right):
    plots.label_sizes(ax, config.scales).set_xlabel('workers, $S$')
    ax.legend()
  left.axhline(LOSS[1], color='#222222', lw=0.8, ls=':')
  plots.label_sizes(left, (1, 4, 16, 64), 'y')
  plots.label_sizes(right, [config.steps // s for s in (1, *config.scales)],
                    'y')
  left.set(ylabel="training loss / small batch's\n(95 % intervals)",
           title='AdaScale keeps the loss')
  right.set(ylabel='steps', title='Its steps fall with its mean gain')
  return figure
