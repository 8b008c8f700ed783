"""What figures draw alike: values with 95 % intervals, bands, and notes."""

import numpy as np

from experiments.common import intervals

INK, SHADE = '#222222', '#dddddd'
# The style of the paper's numbers.
PAPER = dict(ls='none', marker='D', mfc='white', mec=INK)


def points(ax, places, found, *, in_rows: bool = False, **style) -> None:
  """Draw values with their intervals; what is unknown is left out.

  Args:
    ax: The axes.
    places: Where the values stand: on the x-axis or, `in_rows`, on the y-axis.
    found: The values with the ends of their intervals.
    in_rows: Whether intervals are level rather than upright.
    **style: Of `errorbar`.
  """
  values, *ends = np.array(found, float).reshape(-1, 3).T
  reach = np.abs(np.nan_to_num(ends - values))
  ax.errorbar(
    *((values, places) if in_rows else (places, values)),
    **{'xerr' if in_rows else 'yerr': reach},
    **{'ls': 'none', 'marker': 'o', 'elinewidth': 1.4} | style)


def means(ax, places, runs, **style) -> None:
  """Draw the mean of each row of runs [place, run]; see `points`."""
  points(ax, places, [intervals.of_mean(row) for row in runs], **style)


def band(ax, x, low, middle, high, *, color, label=None) -> None:
  """Draw a line in its band."""
  ax.plot(x, middle, color=color, label=label)
  ax.fill_between(x, low, high, color=color, alpha=0.18, lw=0)


def level(ax, height: float, text: str, *, at: float = 0.99, **style) -> None:
  """Write what is at a height of the data, at a share of the width."""
  ax.annotate(text, (at, height), xycoords=('axes fraction', 'data'),
              **{'ha': 'right' if at > 0.5 else 'left', 'va': 'bottom',
                 'fontsize': 7, 'color': INK} | style)


def row_names(ax, names) -> None:
  """Name rows, the first on top, and draw no lines between them."""
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.tick_params(axis='y', length=0)
  ax.grid(axis='y', visible=False)


def explain(figure, text: str) -> None:
  """Say below the panels what the marks are."""
  figure.supxlabel(text, x=0.99, ha='right', fontsize=7, color='#666666')
