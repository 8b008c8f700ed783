"""The three figures of `decentralized`, drawn from its records."""

import pathlib

import numpy as np

from experiments.common import plots
from experiments.decentralized import analysis, arms
from experiments.decentralized.tables import name_of

FIRST = 'ssgd', 'ssgd_noise', 'imposed'  # in the order of colors


def draw_all(config, summary) -> list[pathlib.Path]:
  """Draw and write every figure of the domains; return the paths."""
  folder, figures = pathlib.Path(config.workdir) / 'figures', {}
  if 'images' in config.domains:
    figures |= {'success': draw_success, 'along': draw_along}
  if 'text' in config.domains:
    figures['text'] = draw_text
  return [plots.save(draw(config, summary), folder / f'{name}.png')
          for name, draw in figures.items()]


def draw_success(config, summary):
  """Draw successes by rate and arm, by batch, and of every arm in focus."""
  figure, ((left, middle, right),) = plots.subplots(3, 5.0, 4.4)
  main, first = analysis.main_arm(config), config.batch_sizes[0]
  cells = [c for c in summary['cells'] if c['domain'] == 'images']
  pick = lambda name, size=first: [c for c in cells if (
    c['arm'], c['batch_size']) == (name, size)]
  four = *FIRST, main
  for i, name in enumerate(four):
    _draw_counts(left, pick(name), i, len(four), color=color_of(name),
                 marker=plots.MARKERS[i], label=name_of(name))
  pairs = [(name, size) for size in config.batch_sizes
           for name in ('ssgd', main)]
  for i, (name, size) in enumerate(pairs):
    _draw_counts(
      middle, pick(name, size), i, len(pairs), color=color_of(name),
      marker=plots.MARKERS[config.batch_sizes.index(size) % len(
        plots.MARKERS)], mfc=None if size == first else 'white',
      label=f'{name_of(name)}, batch {size}')
  left.set_title(f'By arm, batch {first}')
  middle.set_title('By batch')
  for ax in (left, middle):
    ax.set(xlabel='learning rate', ylim=(-0.04, 1.04))
    ax.legend(fontsize=8, loc='lower left')
  goal = f'{config.target_accuracy:.0%} test accuracy'
  left.set_ylabel(f'share of runs that reach {goal}')
  rows = [max(pick(arm.name), key=lambda c: (
    c['learning_rate'] == config.focus_rate, c['successes']))
    for arm in arms.list_arms(config)
    if (arm.domain, arm.batch_size) == ('images', first)]
  rows.sort(key=lambda c: plots.COLORS.index(color_of(c['arm'])))
  for i, cell in enumerate(reversed(rows)):
    _errorbar(right, [cell], [i], 'x', color=color_of(cell['arm']),
              marker='o')
  right.set_yticks(range(len(rows)), [
    name_of(c['arm']) + (f', {c["learning_rate"]:g}' if c['arm'] == 'lamb'
                         else '') for c in reversed(rows)])
  right.set(xlabel=f'share of runs that reach {goal}', xlim=(-0.04, 1.04),
            title=f'All, at rate {config.focus_rate:g} (LAMB at its best)')
  return figure


def color_of(arm: str) -> str:
  """Choose the color of an arm: the same for every graph."""
  names = *FIRST, 'dpsgd', 'lamb'
  return plots.COLORS[names.index(
    'dpsgd' if arm.startswith('dpsgd') else arm)]


def draw_along(config, summary):
  """Draw α_e/α, the noise across g and the spread along the training."""
  del summary
  figure, ((left, middle, right),) = plots.subplots(3, 5.0, 4.2)
  main, rate = analysis.main_arm(config), config.focus_rate
  find = lambda name: analysis.find(config, name)
  for name in ('ssgd', 'ssgd_noise', main):
    _draw_series(left, config, find(name), 'ratio', rate,
                 color=color_of(name), label=name_of(name))
  lane = config.learning_rates.index(rate) * config.num_seeds
  left.plot(analysis.imposed_ratio(config, find('imposed'))[lane],
            color='black', lw=1.2, ls='--', label='smoothed, to impose')
  left.set(ylabel='α_e/α', title=f'Effective learning rate, α = {rate:g}',
           ylim=(-0.2, 2))
  for name, quantity, style, label in (
      ('ssgd', 'across_batch', '-', 'Δ_S of SSGD: batches'),
      ('ssgd_noise', 'across_spread', '--', 'Δ_2 of SSGD*: weight noise'),
      (main, 'across_batch', '-', 'Δ_S of DPSGD: batches'),
      (main, 'across_spread', '--', 'Δ_2 of DPSGD: disagreement')):
    _draw_series(middle, config, find(name), quantity, rate,
                 color=color_of(name), ls=style, label=label)
  middle.set(ylabel='α²‖noise across g‖²', title='Noise across the gradient')
  for topology, color in zip(config.topologies, plots.COLORS[3:]):
    _draw_series(right, config, find(f'dpsgd_{topology}'), 'spread', rate,
                 color=color, label=topology)
  right.set(ylabel='σ_w²', title='Spread of the workers, by graph')
  for ax in (middle, right):
    plots.log_scale(ax)
  for ax in (left, middle, right):
    ax.set_xlabel('step')
    ax.legend(fontsize=8)
  return figure


def draw_text(config, summary):
  """Draw successes by rate, and the loss along the training."""
  figure, ((left, right),) = plots.subplots(2, 5.4, 4.2)
  main = analysis.main_arm(config)
  colors = plots.shades(len(config.text_learning_rates))
  for i, (name, style) in enumerate((('ssgd', '--'), (main, '-'))):
    cells = [c for c in summary['cells']
             if (c['domain'], c['arm']) == ('text', name)]
    _draw_counts(left, cells, i, 2, color=color_of(name),
                 marker=plots.MARKERS[i], label=name_of(name))
    arm = analysis.find(config, name, 'text')
    run = analysis.load(config, arm)
    for rate, loss, color in zip(arm.learning_rates, run['loss'], colors):
      right.plot(run['step'], np.median(loss, 0), color=color, ls=style,
                 label=f'{name_of(name)}, rate {rate:g}')
  left.set(xlabel='learning rate', ylim=(-0.04, 1.04),
           title='LSTM, next character',
           ylabel='share of runs that reach '
           f'{config.target_loss:g} nats a character')
  left.legend(fontsize=8, loc='upper right')
  right.axhline(config.target_loss, color='black', lw=1, ls=':')
  right.set(xlabel='step', ylabel='test loss (nats), median of the seeds',
            title='Loss along the training')
  plots.log_scale(right)
  plots.plain_numbers(right)
  right.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
  return figure


def _draw_counts(ax, cells, i, count, **kwargs):
  """Draw shares with their intervals; arms stand beside each other."""
  places = np.arange(len(cells)) + 0.14 * (i - (count - 1) / 2)
  _errorbar(ax, cells, places, 'y', **kwargs)
  ax.set_xticks(range(len(cells)), [f'{c["learning_rate"]:g}' for c in cells])


def _errorbar(ax, cells, places, axis, **kwargs):
  share = np.array([c['successes'] / c['runs'] for c in cells])
  low, high = np.array([c['interval'] for c in cells]).T
  error = np.maximum([share - low, high - share], 0)
  values = {'x': (share, places), 'y': (places, share)}[axis]
  ax.errorbar(*values, **{f'{axis}err': error}, ls='none', capsize=3, **kwargs)


def _draw_series(ax, config, arm, name, rate, **kwargs):
  """Draw the median over the seeds, and their quartiles; no zeros."""
  run = analysis.load(config, arm)
  series = run[name][arm.learning_rates.index(rate)]
  known = np.isfinite(series).any(0)
  if name != 'ratio':  # at the first step all workers are equal
    known[0] = False
  low, mid, high = np.nanquantile(series[:, known], (.25, .5, .75), axis=0)
  look = run['look'][known]
  ax.plot(look, mid, **kwargs)
  ax.fill_between(look, low, high, color=kwargs['color'], alpha=0.15, lw=0)
