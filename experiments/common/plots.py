"""How figures look: one style, and a palette for color-blind readers too.

Figures are drawn from results alone, at 6.5 inches' width and with at most two
panels, so that a page 880 pixels wide shows them readable. `save` writes the
file whole or not at all.
"""

import math
import os
import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.claims import Claim

plt.style.use(pathlib.Path(__file__).with_name('house.mplstyle'))

# Okabe and Ito's palette, dark enough on white, and three of Tol's beside it.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9',
          '#882255', '#999933', '#332288')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '<', '>')
VERDICT_COLORS = {'holds': '#009E73', 'fails': '#D55E00', 'open': '#E69F00',
                  'unknown': '#888888'}
WIDTH = 6.5


def panels(columns: int = 1, rows: int = 1, height: float = 3.2, **options):
  """Make a figure of a page's width; returns it with axes [rows, columns]."""
  return plt.subplots(rows, columns, squeeze=False,
                      figsize=(WIDTH, height * rows), **options)


def subplots(columns: int = 1, width: float = 4.6, height: float = 3.8,
             rows: int = 1, sharey: bool | str = False):
  """Make rows of axes in the style of the house."""
  return plt.subplots(rows, columns, squeeze=False, sharey=sharey,
                      figsize=(width * columns, height * rows))


def shades(count: int):
  """Pick colors in an order that is seen as one, dark to light."""
  return matplotlib.colormaps['viridis'](np.linspace(0.0, 0.88, count))


def log_scale(ax, axis: str = 'y'):
  """Use a logarithmic axis, and say so where there is nothing to show."""
  low, high = getattr(ax.dataLim, f'interval{axis}')
  if np.isfinite([low, high]).all() and high > 0:
    getattr(ax, f'set_{axis}scale')('log')
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


def label_lines(ax, *, gap: float = 0.02, size: float = 8) -> None:
  """Write each line's label at its right end, instead of a legend.

  Labels that would overlap are pushed apart.
  """
  lines = [line for line in ax.get_lines()
           if not line.get_label().startswith('_') and len(line.get_xdata())]
  _lay_out(ax.figure)
  to_axes = lambda line: ax.transAxes.inverted().transform(
    ax.transData.transform([line.get_xdata()[-1], line.get_ydata()[-1]]))
  ends = [(line, to_axes(line)) for line in lines]
  ends = sorted(((line, at) for line, at in ends if np.isfinite(at).all()),
                key=lambda end: end[1][1])
  step = 1.3 * size / (ax.get_window_extent().height * 72 / ax.figure.dpi)
  lowest = -np.inf
  for line, at in ends:
    height = max(at[1], lowest + step)
    lowest = height
    ax.annotate(line.get_label(), (min(at[0], 1) + gap, height),
                xycoords='axes fraction', va='center', fontsize=size,
                color=line.get_color(), annotation_clip=False)


def _lay_out(figure: Figure) -> None:
  """Fix limits, scales and the places of the axes, and draw nothing."""
  figure.get_layout_engine().execute(figure)


def matrix(ax, counts: np.ndarray, total: int, rows: Sequence[str],
           columns: Sequence[str]) -> None:
  """Show counts as a matrix: the number in the cell, the color by share."""
  ax.imshow(counts / total, cmap='Blues', vmin=0, vmax=1.25, aspect='auto')
  for (i, j), count in np.ndenumerate(counts):
    if np.isfinite(count):
      ax.text(j, i, f'{count:.0f}', ha='center', va='center',
              color='white' if count > 0.6 * total else '#222222')
  ax.set_xticks(range(len(columns)), columns)
  ax.set_yticks(range(len(rows)), rows)
  ax.tick_params(length=0)
  ax.grid(False)
  ax.spines[:].set_visible(False)


def forest_of(config, reduced, claims: Sequence[Claim]) -> Figure:
  """Draw `forest` in the way of a study's figures."""
  del config, reduced
  return forest(claims)


def forest(claims: Sequence[Claim]) -> Figure:
  """Draw a row a claim: its interval, its allowed range, the paper's number.

  Each row has a scale of its own; its numbers stand beside it.
  """
  figure, ax = plt.subplots(figsize=(WIDTH, 0.31 * len(claims) + 0.7))
  ax.set(xlim=(0, 1), ylim=(len(claims) - 0.4, -0.6))
  ax.set_axis_off()
  for row, claim in enumerate(claims):
    text = claim.text.replace('`', '')  # what is code on a page
    ax.text(0, row, '\n'.join(textwrap.wrap(text, 56)), va='center',
            fontsize=7)
    ax.text(0.79, row, tables.measured(claim),
            va='center', fontsize=7)
    _forest_row(ax, row, claim)
  words = dict.fromkeys(claim.verdict for claim in claims)
  marks = [plt.Line2D([], [], color=VERDICT_COLORS[word], lw=3, marker='o',
                      label=word) for word in words]
  marks += [
    plt.Line2D([], [], color='#dddddd', lw=8, label='holds within'),
    plt.Line2D([], [], color='none', marker='D', mfc='white', mec='#222222',
               label="the paper's value")]
  title = 'Claims: our value with its 95 % interval'
  if 'open' in words:
    title += ('\nopen: the interval crosses an end of the gray range, or a '
              'second rounding disagrees')
  figure.legend(handles=marks, loc='outside upper left', ncols=len(marks),
                fontsize=7, title=title, title_fontsize=8, alignment='left')
  return figure


def _forest_row(ax, row, claim):
  """Draw a claim on a scale of its own, from 0.54 to 0.77 of the width."""
  color = VERDICT_COLORS[claim.verdict]
  paper = math.nan if claim.paper is None else claim.paper
  shown = [x for x in (*claim.measured, paper, *claim.allowed)
           if math.isfinite(x)] or [0.0]
  pad = 0.12 * (max(shown) - min(shown)) or 1.0
  low, high = min(shown) - pad, max(shown) + pad
  at = lambda x: 0.54 + 0.23 * (min(max(x, low), high) - low) / (high - low)
  left, right = map(at, claim.allowed)
  ax.fill_between([left, right], row - 0.36, row + 0.36, color='#dddddd', lw=0)
  ax.plot([0.54, 0.77], [row + 0.36] * 2, color='#999999', lw=0.6)
  if claim.measured.is_known:
    value, first, last = map(at, claim.measured)
    ax.plot([first, last], [row, row], color=color, lw=3,
            solid_capstyle='butt')
    ax.plot(value, row, 'o', color=color, ms=5)
  if claim.paper is not None:
    ax.plot(at(paper), row, 'D', mfc='white', mec='#222222', ms=5)


def save_svg(figure: Figure, path: str | os.PathLike) -> pathlib.Path:
  """Write an SVG whose text is text; equal figures are equal files."""
  fixed = {'svg.fonttype': 'none', 'svg.hashsalt': 'gradiv'}
  with plt.rc_context(fixed):
    figure.savefig(path, metadata={'Date': None})
  plt.close(figure)
  return pathlib.Path(path)


def save(figure: Figure, path: str | os.PathLike) -> pathlib.Path:
  """Write a PNG: whole, or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  figure.dpi = plt.rcParams['savefig.dpi']
  _lay_out(figure)
  figure.set_layout_engine('none')
  # Figure.savefig would draw twice more, the first time only to lay it out.
  FigureCanvasAgg(figure).print_png(partial)
  os.replace(partial, path)
  plt.close(figure)
  return path
