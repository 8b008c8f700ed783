"""The three figures of `agreement_filtering`, drawn from its records."""

import pathlib

import numpy as np

from experiments.agreement_filtering import analysis
from experiments.common import plots
from gradiv import weightings

CONTROLS = ('mean', 'running_mean', 'random', 'equal_updates', 'mean_clean',
            'running_mean_clean')
NAMES = {
  'mean': 'mean', 'running_mean': 'filter: running mean',
  'halving': 'filter: halving', 'first': 'filter: first',
  'leave_one_out': 'filter: leave one out',
  'geometric_median': 'geometric median',
  'random': 'blind filter, same rate',
  'equal_updates': 'mean, as many updates',
  'mean_clean': 'mean, balanced by true labels',
  'running_mean_clean': 'filter, balanced by true labels'}

# Of the first the rate is tuned; the second is of the largest for all.
QUANTITIES = ('test', 'validation_at_largest_rate')


def draw_all(config, summary) -> list[pathlib.Path]:
  """Draw and write every figure; return the paths."""
  folder = pathlib.Path(config.workdir) / 'figures'
  figures = {'accuracy': draw_accuracy, 'distances': draw_distances,
             'thresholds': draw_thresholds}
  return [plots.save(draw(config, summary), folder / f'{name}.png')
          for name, draw in figures.items()]


def draw_accuracy(config, summary):
  """Draw accuracy by noise: the rules and the controls, tuned and not."""
  figure, grid = plots.subplots(2, 5.5, 4.2, rows=2, sharey='row')
  rules = 'mean', *config.combines, 'geometric_median'
  control, rate = config.control_threshold, config.learning_rates[-1]
  for quantity, axes in zip(QUANTITIES, grid):
    for ax, arms in zip(axes, (rules, CONTROLS)):
      for name, color, marker in zip(arms, plots.COLORS, plots.MARKERS):
        tuned = ax is grid[0, 0]
        one = name not in weightings.COMBINE or tuned
        cells = analysis.find_cells(
          summary, name, None if one else control)
        mean, error = _percent(cells, quantity)
        ax.errorbar([100 * c['noise'] for c in cells], mean, error,
                    color=color, marker=marker, capsize=3, label=NAMES[name],
                    ls='--' if name == 'mean' else '-')
      ax.set(xlabel='wrong labels (%)')
  grid[0, 0].set(ylabel='test accuracy (%)', title='Rules; rate and τ tuned')
  grid[0, 1].set(title=f'Controls of the filter, τ = {control:g}; rate tuned')
  grid[1, 0].set(ylabel='validation accuracy (%)',
                 title=f'Rules, τ = {control:g}, all at the rate {rate:g}')
  grid[1, 1].set(title=f'Controls, τ = {control:g}, all at the rate {rate:g}')
  for ax in grid[0]:
    ax.legend(fontsize=8)
  return figure


def draw_distances(config, summary):
  """Draw distances, skipped steps and what is memorized along the run.

  At the largest rate, at which the mean memorizes most.
  """
  del summary
  figure, ((left, middle, right),) = plots.subplots(3, 4.6, 4.2)
  colors = plots.shades(len(config.noise_rates))
  for name, style in (('mean', '--'), (analysis.FILTER, '-')):
    arm = analysis.find(config, name)
    run = analysis.load(config, arm)
    j = (arm.thresholds.index(config.control_threshold)
         if len(arm.thresholds) > 1 else 0)
    pick = lambda x: x[:, j, -1].mean(1)
    steps = run['step'][1:]
    distance = 1 - analysis.by_stage(pick(run['cosine'])) / config.every
    skipped = analysis.by_stage(
      pick(run['sizes'][..., 0])) / config.every
    memorized = pick(run['memorized'])[:, 1:]
    for i, (noise, color) in enumerate(zip(config.noise_rates, colors)):
      line = dict(color=color, ls=style,
                  label=f'{NAMES[name]}, {noise:.0%} wrong')
      left.plot(steps, distance[i], **line)
      middle.plot(steps, 100 * skipped[i], **line)
      if np.isfinite(memorized[i]).all():
        right.plot(steps, 100 * memorized[i], **line)
  left.axhline(config.control_threshold, color='black', lw=1, ls=':')
  rate = config.learning_rates[-1]
  left.set(ylabel='mean cosine distance of two micro-gradients',
           title=f'Micro-gradients at the rate {rate:g}')
  middle.set(ylabel='steps without agreement (%)',
             title=f'Skipped at τ = {config.control_threshold:g}')
  right.set(ylabel='wrong labels predicted (%)', title='Memorized')
  for ax in (left, middle, right):
    ax.set(xlabel='step')
  left.legend(fontsize=7, loc='lower right')
  return figure


def draw_thresholds(config, summary):
  """Draw accuracy by threshold, a line a way to filter; tuned, and not."""
  figure, grid = plots.subplots(len(config.noise_rates), 3.4, 3.2, rows=2)
  for quantity, axes in zip(QUANTITIES, grid):
    for ax, noise in zip(axes, config.noise_rates):
      for name, color, marker in zip(
          config.combines, plots.COLORS, plots.MARKERS):
        cells = [c for c in summary['cells']
                 if (c['arm'], c['noise']) == (name, noise)]
        mean, error = _percent(cells, quantity)
        ax.errorbar([c['threshold'] for c in cells], mean, error, color=color,
                    marker=marker, capsize=3, label=NAMES[name])
      plain, = (c for c in summary['cells']
                if (c['arm'], c['noise']) == ('mean', noise))
      ax.axhline(100 * plain[quantity][0], color='black', lw=1, ls='--',
                 label='mean')
      ax.set(xlabel='threshold τ', title=f'{noise:.0%} wrong labels')
  grid[0, 0].set_ylabel('test (%), rate tuned')
  grid[1, 0].set_ylabel(f'validation (%), rate {config.learning_rates[-1]:g}')
  grid[1, 0].legend(fontsize=7)
  return figure


def _percent(cells, name):
  pairs = [c[name] for c in cells]
  return (np.array([100 * m if m is not None else np.nan for m, _ in pairs]),
          np.array([100 * e if e is not None else 0. for _, e in pairs]))
