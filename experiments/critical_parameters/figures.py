"""The figures of `critical_parameters`, drawn from its records."""

import pathlib

import numpy as np

from experiments.common import plots
from experiments.critical_parameters import (
  claims,
  network,
  study,
  theory,
  tuning,
)


def draw_all(config) -> list[pathlib.Path]:
  """Draw and write the figure of each study; return the paths."""
  folder = pathlib.Path(config.workdir) / 'figures'
  draw = {'quadratic': draw_quadratic, 'noise': draw_noise,
          'sparse': draw_sparse, 'network': draw_network, 'rates': draw_rates}
  return [plots.save(draw[name](config), folder / f'{name}.png')
          for name in study.STUDIES if name in config.studies]


def draw_quadratic(config):
  """Draw the steps as a heat map for each dimension, and their collapse."""
  cells = study.load(config, 'quadratic')
  number = len(config.dimensions)
  figure, (axes,) = plots.subplots(number + 1, 4.8, 4.2)
  for ax, d in zip(axes, config.dimensions):
    own = {(c['batch_size'], c['staleness']): c['steps'].mean() for c in cells
           if c['dimension'] == d}
    table = np.array([[own[b, tau] for b in config.batch_sizes]
                      for tau in config.stalenesses])
    ax.imshow(np.log(table), origin='lower', aspect='auto', cmap='viridis_r')
    middle = np.log(table[np.isfinite(table)]).mean()
    for (i, j), value in np.ndenumerate(table):
      ax.text(j, i, f'{value:.0f}', ha='center', va='center', fontsize=8,
              color='white' if np.log(value) > middle else 'black')
    _contour(ax, config, d)
    ax.set_xticks(range(len(config.batch_sizes)), config.batch_sizes)
    ax.set_yticks(range(len(config.stalenesses)), config.stalenesses)
    ax.grid(False)
    ax.set(xlabel='batch size b', ylabel='delay τ',
           title=f'Steps to {config.target:g}, M = {d + 1}')
  last = axes[-1]
  _scatter(last, cells, [c['slowness'] for c in cells], [
    f'M = {c["dimension"] + 1}' for c in cells])
  x = np.geomspace(1, max(c['slowness'] for c in cells))
  scale = -np.log(config.target)
  last.fill_between(x, scale * x / 2, scale * x, color='black', alpha=0.08,
                    lw=0, label='r* (τ + 1 + M/b) from 1 to 2')
  last.set(xlabel='τ + 1 + M/b', ylabel=f'steps to {config.target:g}',
           title='One curve of all')
  last.legend(fontsize=8)
  return figure


def _contour(ax, config, d):
  """Mark where the delay is M/b: beyond it, it is what costs."""
  x = np.array([np.interp(np.log2(b), np.log2(config.batch_sizes), range(
    len(config.batch_sizes))) for b in config.batch_sizes])
  delays = np.log2(np.array(config.stalenesses) + 1)
  wanted = (d + 1) / np.array(config.batch_sizes)
  y = np.interp(np.log2(wanted + 1), delays, range(len(delays)))
  ax.plot(x, y, color=plots.COLORS[1], ls='--', label='τ = M/b')
  ax.legend(fontsize=8, loc='upper right')


def _scatter(ax, cells, slowness, labels):
  """Draw the steps of cells on what they should go with."""
  for name, color, marker in zip(
      dict.fromkeys(labels), plots.COLORS, plots.MARKERS):
    own = [i for i, label in enumerate(labels) if label == name]
    spread = [tuning.interval(cells[i]['steps']) for i in own]
    mean, low, high = np.array(spread).T
    ax.errorbar([slowness[i] for i in own], mean, [mean - low, high - mean],
                color=color, marker=marker, ls='none', capsize=2, label=name)
  ax.set_xscale('log')
  plots.log_scale(ax)


def draw_noise(config):
  """Draw the steps under label noise on M alone, and on all."""
  cells = study.load(config, 'noise')
  figure, (axes,) = plots.subplots(2, 5.2, 4.2, sharey=True)
  ratio = lambda c: c['label_noise']**2 * c['dimension'] / config.noise_target
  labels = [f'σ²/ε = {ratio(c):.0f}' for c in cells]
  alone = [c['staleness'] + 1 + (c['dimension'] + 1) / c['batch_size']
           for c in cells]
  _scatter(axes[0], cells, alone, labels)
  _scatter(axes[1], cells, [c['slowness'] for c in cells], labels)
  axes[0].set(xlabel='τ + 1 + M/b', title='Without the noise',
              ylabel=f'steps to ‖x‖² = {config.noise_target:g}')
  axes[1].set(xlabel='τ + 1 + (M + σ²/ε)/b', title='One curve of all')
  axes[1].legend(fontsize=8)
  return figure


def draw_sparse(config):
  """Draw the critical delay on 1/Δ, and on 1 + M."""
  found = claims.sparse_delays(config)
  figure, (axes,) = plots.subplots(2, 5.2, 4.2, sharey=True)
  middle = config.sparse_dimensions[-2]
  groups = {'one-hot rows, d varies': [f for f in found if f['support'] == 1],
            f'k numbers a row, d = {middle}': [
              f for f in found if f['support'] > 1]}
  for ax, place in zip(axes, (lambda f: 1 / f['density'],
                              lambda f: 1 + f['noise_ratio'])):
    for (name, own), color, marker in zip(
        groups.items(), plots.COLORS, plots.MARKERS):
      mean, low, high = np.array(
        [tuning.interval(f['delay']) for f in own]).T
      ax.errorbar([place(f) for f in own], mean, [mean - low, high - mean],
                  color=color, marker=marker, capsize=3, ls='none',
                  label=name)
      if ax is axes[0] and own[0]['support'] > 1:
        for f, y in zip(own, mean):
          ax.annotate(f'k={f["support"]}', (place(f), y), (4, 5),
                      textcoords='offset points', fontsize=8)
    x = np.array([min(map(place, found)), max(map(place, found))])
    ax.plot(x, x, color='black', lw=1, ls=':', label='as much')
    ax.set_xscale('log', base=2)
    ax.set_yscale('log', base=2)
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter(lambda value, _: f'{value:g}')
  axes[0].set(xlabel='1/Δ', ylabel='delay at which steps double',
              title='Sparsity bounds it below')
  axes[1].set(xlabel='1 + M', title='M tells it')
  axes[0].legend(fontsize=8)
  return figure


def draw_network(config):
  """Draw steps by batch, by delay, and the M tracked along the training."""
  figure, ((left, middle, right),) = plots.subplots(3, 4.6, 4.0)
  found = claims.network_critical(config)
  cells = {cell: network.load(config, cell)['steps']
           for cell in network.cells(config)}
  sizes, taus = config.network_batch_sizes, (0, *config.network_stalenesses)
  _lines(left, sizes, [cells[b, 0] for b in sizes], plots.COLORS[0], 'o',
         'measured')
  batch = tuning.interval(found['batch'])[0]
  least = cells[sizes[-1], 0].mean() / (1 + batch / sizes[-1])
  x = np.geomspace(sizes[0], sizes[-1])
  left.plot(x, least * (1 + batch / x), color='black', lw=1, ls=':',
            label=f'T (1 + {batch:.0f}/b)')
  left.set_xscale('log', base=2)
  plots.label_sizes(left, sizes)
  plots.plain_numbers(plots.log_scale(left)).set(
    xlabel='batch size b', ylabel=f'steps to a loss of {config.target_loss:g}',
    title='Without delay')
  for b, color, marker in zip(sizes[:2], plots.COLORS, plots.MARKERS):
    base = cells[b, 0].mean()
    _lines(middle, taus, [cells[b, tau] / base for tau in taus], color,
           marker, f'b = {b}')
    middle.plot(taus, 1 + np.array(taus) / (1 + batch / b), color=color, lw=1,
                ls=':')
  middle.axhline(2, color='black', lw=1, ls=':')
  middle.set(xlabel='delay τ', ylabel='steps, over those without delay',
             title='With delay; dotted: by the batch')
  share = network.tracked_noise(config)[1]
  steps = config.every * np.arange(1, share.shape[1] + 1)
  with np.errstate(divide='ignore'):
    right.plot(steps, np.median(1 / share - 1, 0), color=plots.COLORS[0],
               label='M, median over seeds')
  for name, color, text in (
      ('batch', plots.COLORS[1], 'critical batch'),
      ('delay', plots.COLORS[2], f'{sizes[0]} · critical delay'),
      ('tracked', plots.COLORS[3], 'mean M on the way')):
    right.axhline(tuning.interval(found[name])[0], color=color,
                  ls='--', label=text)
  right.axvline(cells[sizes[0], 0].mean(), color='black', lw=1, ls=':')
  plots.plain_numbers(plots.log_scale(right)).set(
    xlabel=f'step, b = {sizes[0]}', ylabel='M (examples)',
    title='Tracked; dotted: the target is reached')
  for ax in (left, middle, right):
    ax.legend(fontsize=8)
  return figure


def _lines(ax, x, runs, color, marker, label):
  mean, low, high = np.array([tuning.interval(r) for r in runs]).T
  ax.errorbar(x, mean, [mean - low, high - mean], color=color, marker=marker,
              capsize=3, label=label)


def draw_rates(config):
  """Draw c of the largest stable rates beside its two limits."""
  cells = study.load(config, 'rates')
  figure, ((ax,),) = plots.subplots(1, 6.0, 4.2)
  sizes = sorted({c['batch_size'] for c in cells})
  delays = np.geomspace(1, config.stalenesses[-2] + 1, 40).round() - 1
  for d, style, fill in zip(config.dimensions, ('-', '--'), (True, False)):
    for b, color, marker in zip(sizes, plots.COLORS, plots.MARKERS):
      own = [c for c in cells if (c['dimension'], c['batch_size']) == (d, b)]
      tau = np.array([c['staleness'] for c in own])
      m = (d + 1) / b
      mean, low, high = np.array([tuning.interval(
        c['steps'] * c['slowness']) for c in own]).T
      ax.errorbar(tau + 1, mean, [mean - low, high - mean], color=color,
                  marker=marker, mfc=color if fill else 'white', capsize=2,
                  ls='none', label=f'M = {d + 1}, b = {b}')
      ax.plot(delays + 1, [(t + 1 + m) * theory.mean_square_limit(
        m, int(t)) for t in delays], color=color, ls=style, lw=1)
  for limit in (np.pi / 2, 2):
    ax.axhline(limit, color='black', lw=1, ls=':')
  ax.set_xscale('log', base=2)
  ax.set(xlabel='τ + 1', ylabel='c = largest stable rate · (τ + 1 + M/b)',
         ylim=(1.2, 2.6), title='Largest stable rates; lines: exact')
  ax.legend(fontsize=7, ncols=2)
  return figure
