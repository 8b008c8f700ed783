"""The figures of least squares: steps, their collapse, and stable rates."""

import math

import numpy as np

from experiments.common import intervals, plots
from experiments.critical_parameters import theory

INK = '#222222'


def critical(config, reduced, claims):
  """Show steps by batch and delay, and that they lie on one curve."""
  del claims
  grid = reduced.quadratic
  if grid is None:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.3)
  d = config.dimensions[-1]
  _map_steps(left, config, grid, d)
  x = np.geomspace(1.001, float(grid['slowness'].max()))
  low, high = (np.log(config.target) / np.log1p(-np.minimum(c / x, 1 - 1e-9))
               for c in (2, 1))
  right.fill_between(x, np.maximum(low, 1), high, color='#dddddd', lw=0,
                     label='range of the theory')
  for i, one in enumerate(config.dimensions):
    own = grid.sel(dimension=one)
    points(right, own['slowness'].values.ravel(), own['steps'].values.reshape(
      own['slowness'].size, -1), i, ls='none', label=f'$M$ = {one + 1}')
  right.set(xscale='log', yscale='log', xlabel=r'$\tau + 1 + M/b$',
            ylabel=f'steps to {power(config.target)}',
            title=f'All {grid["slowness"].size} settings lie\non one curve')
  right.legend(loc='lower right')
  explain_bars(figure, config)
  return figure


def steps(config, reduced, claims):
  """Show the steps by batch and delay in the smallest and largest dimension."""
  del claims
  if reduced.quadratic is None:
    return None
  figure, (axes,) = plots.panels(2, height=3.3)
  for ax, d in zip(axes, (config.dimensions[0], config.dimensions[-1])):
    _map_steps(ax, config, reduced.quadratic, d)
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
            color='white' if logs[i, j] > middle else INK)
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
         title=f'Steps to {power(config.target)}, $M$ = {d + 1}: delay\n'
         r'costs above the line $\tau = M/b$')


def noise(config, reduced, claims):
  """Show the steps under label noise on the law without it and with it."""
  del claims
  grid = reduced.noise
  if grid is None:
    return None
  figure, ((left, right),) = plots.panels(2, height=3.3, sharey=True)
  alone = (grid['staleness'] + 1 + (config.dimensions[0] + 1)
           / grid['batch_size']).values
  for i, ratio in enumerate(config.noise_ratios):
    own = grid.isel(label_noise=i)
    runs = own['steps'].values.reshape(own['slowness'].size, -1)
    points(left, alone.ravel(), runs, i, ls='none')
    points(right, own['slowness'].values.ravel(), runs, i, ls='none',
           label=rf'$\sigma^2/\epsilon$ = {ratio:g}')
  left.set(xscale='log', yscale='log', xlabel=r'$\tau + 1 + M/b$',
           ylabel=f'steps to $\\epsilon$ = {power(config.noise_target)}',
           title='Law without $\\sigma^2/\\epsilon$:\n'
           'a curve for each noise level')
  right.set(xscale='log', xlabel=r'$\tau + 1 + (M + \sigma^2/\epsilon)/b$',
            title='Law with $\\sigma^2/\\epsilon$:\none curve for all')
  right.legend(loc='lower right')
  explain_bars(figure, config)
  return figure


def rates(config, reduced, claims):
  """Show c of the largest stable rates beside the exact limit."""
  del claims
  grid = reduced.rates
  if grid is None:
    return None
  figure, ((ax,),) = plots.panels(height=3.6)
  taus = np.unique(np.geomspace(
    1, config.stalenesses[-2] + 1, 40).round().astype(int) - 1)
  ax.axhspan(math.pi / 2, 2, color='#dddddd', lw=0, alpha=0.6)
  ax.annotate(r'$\pi/2 \leq c \leq 2$', (0.99, 2.0), (0, -3), va='top',
              ha='right', xycoords=('axes fraction', 'data'), fontsize=8,
              textcoords='offset points', color='#666666')
  for j, b in enumerate(grid['batch_size'].values):
    for d, style, fill in zip(config.dimensions, ('-', '--'),
                              (plots.COLORS[j % 6], 'white')):
      own, m = grid.sel(batch_size=b, dimension=d), (d + 1) / b
      points(ax, own['staleness'].values + 1,
             (own['steps'] * own['slowness']).values, j, ls='none', mfc=fill,
             label=f'$M$ = {d + 1}, $b$ = {b}')
      ax.plot(taus + 1, [(tau + 1 + m) * theory.mean_square_limit(m, int(tau))
                         for tau in taus], color=plots.COLORS[j % 6], ls=style,
              lw=1)
  ax.set_xscale('log', base=2)
  ax.set_xticks([tau + 1 for tau in config.stalenesses[:-1]],
                [str(tau) for tau in config.stalenesses[:-1]])
  ax.set(xlabel=r'delay $\tau$ (steps)', ylim=(1.5, None),
         ylabel=r'$c$ = largest stable rate $\times\;(\tau + 1 + M/b)$',
         title='Largest stable rates (markers) follow the exact limit (lines)')
  ax.legend(ncols=3, loc='upper center', bbox_to_anchor=(0.5, -0.18))
  explain_bars(figure, config)
  return figure


def points(ax, x, runs, index: int, **options):
  """Draw means of runs [place, run] with their 95 % intervals."""
  found = np.array([intervals.of_mean(own) for own in runs])
  ax.errorbar(
    x, found[:, 0], np.abs(found[:, 1:] - found[:, :1]).T, lw=1.4, ms=4.5,
    **{'color': plots.COLORS[index % 6], 'marker': plots.MARKERS[index % 6]}
    | options)


def explain_bars(figure, config):
  """Say what the error bars are, below the panels."""
  figure.supxlabel(f'Bars: 95 % intervals over {config.num_seeds} runs, where '
                   'wider than the marker', x=0.99, ha='right', fontsize=7,
                   color='#666666')


def power(x: float) -> str:
  """Write a power of ten as mathtext, another number as it is.

  >>> power(1e-6), power(0.2)
  ('$10^{-6}$', '0.2')
  """
  exponent = math.log10(x)
  whole = round(exponent)
  return f'$10^{{{whole}}}$' if abs(exponent - whole) < 1e-9 else f'{x:g}'
