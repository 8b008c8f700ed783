"""The figures of least squares: steps, their collapse, and stable rates."""

import functools
import math

import numpy as np

from experiments.common import marks, plots

LAW = r'$\tau + 1 + M/b$'
WORDS = r'(delay $\tau$, batch $b$, gradient noise $M$)'


def of_study(study: str):
  """Make figures of (config, reduced, claims) of those of a study's grid.

  They draw nothing where the study was not chosen.
  """
  def decorate(draw):
    @functools.wraps(draw)
    def figure(config, reduced, claims):
      del claims
      found = getattr(reduced, study)
      return None if found is None else draw(config, found)

    return figure

  return decorate


@of_study('quadratic')
def critical(config, grid):
  """Show steps by batch and delay, and that they lie on one curve."""
  figure, ((left, right),) = plots.panels(2, height=3.4)
  _map_steps(left, config, grid, config.dimensions[-1])
  x = np.geomspace(1.001, float(grid['slowness'].max()))
  low, high = (np.log(config.target) / np.log1p(-np.minimum(c / x, 1 - 1e-9))
               for c in (2, 1))
  right.fill_between(x, np.maximum(low, 1), high, color=marks.SHADE, lw=0,
                     label='range of the theory')
  for i, d in enumerate(config.dimensions):
    own = grid.sel(dimension=d)
    points(right, own['slowness'], own['steps'], i, label=f'$M$ = {d + 1}')
  right.set(xscale='log', yscale='log', xlabel=f'{LAW}\n{WORDS}',
            ylabel=f'steps to {power(config.target)}',
            title=f'All {grid["slowness"].size} settings lie\non one curve')
  right.legend(loc='lower right')
  explain_bars(figure, config)
  return figure


@of_study('quadratic')
def steps(config, grid):
  """Show the steps by batch and delay in the smallest and largest dimension."""
  figure, (axes,) = plots.panels(2, height=3.3)
  for ax, d in zip(axes, (config.dimensions[0], config.dimensions[-1])):
    _map_steps(ax, config, grid, d)
  return figure


def _map_steps(ax, config, grid, d):
  """Write the steps into a map, and draw the border of τ > M/b."""
  table = grid['steps'].sel(dimension=d).mean('run', skipna=False).transpose(
    'staleness', 'batch_size').values
  logs = np.log(table)
  known = logs[np.isfinite(logs)]
  middle = (known.min() + known.max()) / 2 if known.size else 0.
  ax.imshow(logs, origin='lower', aspect='auto', cmap='viridis_r')
  for (i, j), value in np.ndenumerate(table):
    ax.text(j, i, f'{value:.0f}' if np.isfinite(value) else '–', ha='center',
            va='center', fontsize=7.5,
            color='white' if logs[i, j] > middle else marks.INK)
  above = [sum(tau <= (d + 1) / b for tau in config.stalenesses)
           for b in config.batch_sizes]
  edges = np.arange(len(above) + 1) - 0.5
  ax.stairs(np.array(above) - 0.5, edges, baseline=None, lw=2.2,
            color=plots.COLORS[1])
  ax.set_xticks(range(len(config.batch_sizes)), config.batch_sizes)
  ax.set_yticks(range(len(config.stalenesses)), config.stalenesses)
  ax.tick_params(length=0)
  ax.grid(False)
  ax.spines[:].set_visible(False)
  ax.set(xlabel='batch size $b$ (examples)', ylabel=r'delay $\tau$ (steps)',
         title=f'Steps to {power(config.target)}, noise $M$ = {d + 1}:\n'
         r'delay costs above the line $\tau = M/b$')


@of_study('noise')
def noise(config, grid):
  """Show the steps under label noise on the law without it and with it."""
  figure, ((left, right),) = plots.panels(2, height=3.4, sharey=True)
  alone = grid['staleness'] + 1 + (config.dimensions[0] + 1) / grid[
    'batch_size'] + 0 * grid['label_noise']
  for ax, law in ((left, alone), (right, grid['slowness'])):
    law = law.transpose(*grid['slowness'].dims)
    for i, ratio in enumerate(config.noise_ratios):
      points(ax, law.isel(label_noise=i), grid['steps'].isel(label_noise=i), i,
             label=rf'$\sigma^2/\epsilon$ = {ratio:g}')
  left.set(xscale='log', yscale='log', xlabel=f'{LAW}\n{WORDS}',
           ylabel=f'steps to $\\epsilon$ = {power(config.noise_target)}',
           title='Law without label noise\n'
           r'$\sigma^2/\epsilon$: a curve for each level')
  right.set(xscale='log', xlabel=r'$\tau + 1 + (M + \sigma^2/\epsilon)/b$',
            title='Law with label noise\n'
            r'$\sigma^2/\epsilon$: one curve for all')
  right.legend(loc='lower right')
  explain_bars(figure, config)
  return figure


@of_study('rates')
def rates(config, grid):
  """Show c of the largest stable rates beside the exact limit."""
  figure, ((ax,),) = plots.panels(height=3.6)
  delays, taus = config.stalenesses[:-1], grid['delay'].values
  ax.axhspan(math.pi / 2, 2, color=marks.SHADE, lw=0, alpha=0.6)
  marks.level(ax, 1.99, r'$\pi/2 \leq c \leq 2$', va='top', fontsize=8)
  for j, b in enumerate(grid['batch_size'].values):
    for d, style, fill in zip(config.dimensions, ('-', '--'),
                              (plots.COLORS[j % 6], 'white')):
      own = grid.sel(batch_size=b, dimension=d)
      points(ax, own['staleness'] + 1, own['steps'] * own['slowness'], j,
             mfc=fill, label=f'$M$ = {d + 1}, $b$ = {b}')
      ax.plot(taus + 1, own['curve'], color=plots.COLORS[j % 6], ls=style, lw=1)
  ax.set_xscale('log', base=2)
  ax.set_xticks([tau + 1 for tau in delays], map(str, delays))
  ax.set(xlabel=r'delay $\tau$ (steps)', ylim=(1.5, None),
         ylabel=f'$c$ = largest stable rate\n× ({LAW})',
         title='Largest stable rates (markers) follow the exact limit (lines)')
  ax.legend(ncols=3, loc='upper center', bbox_to_anchor=(0.5, -0.18),
            title='gradient noise $M$, batch $b$')
  explain_bars(figure, config)
  return figure


def points(ax, x, runs, index: int, **style):
  """Draw means over the runs, with intervals, in the style of a series."""
  x, runs = np.ravel(x), np.asarray(runs)
  marks.means(ax, x, runs.reshape(len(x), -1), ms=4.5, **{
    'color': plots.COLORS[index % 6], 'marker': plots.MARKERS[index % 6]}
    | style)


def explain_bars(figure, config):
  """Say what the error bars are, below the panels."""
  marks.explain(figure, f'Bars: 95 % intervals over {config.num_seeds} runs, '
                'where wider than the marker')


def power(x: float) -> str:
  """Write a power of ten as mathtext, another number as it is.

  >>> power(1e-6), power(0.2)
  ('$10^{-6}$', '0.2')
  """
  exponent = math.log10(x)
  whole = round(exponent)
  return f'$10^{{{whole}}}$' if abs(exponent - whole) < 1e-9 else f'{x:g}'
