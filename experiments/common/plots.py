"""How figures look: one style, and a palette for color-blind readers too.

Figures are drawn from records alone. Every function takes axes and returns
them; `save` writes the file whole or not at all.
"""

import os
import pathlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's palette, dark enough on white.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P')
STYLE = {
  'axes.grid': True,
  'axes.prop_cycle': matplotlib.cycler(color=COLORS),
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'figure.constrained_layout.use': True,
  'figure.dpi': 110,
  'font.size': 10,
  'grid.alpha': 0.25,
  'legend.frameon': False,
  'lines.linewidth': 1.8,
  'lines.markersize': 5,
}


def subplots(columns: int = 1, width: float = 4.6, height: float = 3.8,
             rows: int = 1, sharey: bool | str = False):
  """Make rows of axes in the style of the house."""
  with plt.rc_context(STYLE):
    return plt.subplots(rows, columns, squeeze=False, sharey=sharey,
                        figsize=(width * columns, height * rows))


def mosaic(top: list[str], bottom: list[str], width: float = 13.0,
           height: float = 7.4):
  """Make two rows of axes by name: those above share their scales."""
  with plt.rc_context(STYLE):
    figure = plt.figure(figsize=(width, height))
    above, below = figure.subfigures(2, 1)
    axes = dict(zip(top, above.subplots(1, len(top), sharex=True,
                                        sharey=True, squeeze=False)[0]))
    axes |= zip(bottom, below.subplots(1, len(bottom), squeeze=False)[0])
  return figure, axes


def shades(count: int):
  """Pick colors in an order that is seen as one, dark to light."""
  return matplotlib.colormaps['viridis'](np.linspace(0.0, 0.88, count))


def log_scale(ax):
  """Use a logarithmic y-axis, and say so where there is nothing to show."""
  low, high = ax.dataLim.intervaly
  if np.isfinite([low, high]).all() and high > 0:
    ax.set_yscale('log')
  else:
    ax.annotate('nothing to show', (0.5, 0.5), xycoords='axes fraction',
                ha='center')
  return ax


def no_ticks():
  """Make a locator of no ticks."""
  return matplotlib.ticker.NullLocator()


def plain_numbers(ax):
  """Write the y-axis as 20, 60, 100 and not as powers of ten."""
  for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
    which(matplotlib.ticker.StrMethodFormatter('{x:g}'))
  return ax


def label_sizes(ax, sizes, axis: str = 'x'):
  """Use a logarithmic axis of batch sizes, with the sizes as they are."""
  getattr(ax, f'set_{axis}scale')('log', base=2)
  getattr(ax, f'set_{axis}ticks')(sizes, [str(s) for s in sizes])
  getattr(ax, f'{axis}axis').set_minor_locator(no_ticks())
  return ax


def save(figure: Figure, path: str | os.PathLike) -> pathlib.Path:
  """Write a PNG: whole, or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  figure.savefig(partial, format='png', dpi=130)
  os.replace(partial, path)
  plt.close(figure)
  return path
