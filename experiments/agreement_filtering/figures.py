"""The figures of `agreement_filtering`."""

import numpy as np

from experiments.agreement_filtering import analysis
from experiments.agreement_filtering.arms import list_arms
from experiments.agreement_filtering.claims import PAPER_GAINS, gain
from experiments.agreement_filtering.config import FILTER
from experiments.common import intervals, plots

# The same arm has the same color in every figure.
ARMS = (FILTER, 'halving', 'first', 'leave_one_out', 'geometric_median',
        'random', 'equal_updates', 'mean_clean', f'{FILTER}_clean')
STYLE = dict(zip(ARMS, zip(plots.COLORS, plots.MARKERS)))
CONTROLS = ('random', 'equal_updates', 'mean_clean', f'{FILTER}_clean')


def agreement(config, reduced, claims):
  """Show what filtering gains, and how it shrinks under each control."""
  del claims
  figure, ((ax,),) = plots.panels(height=3.4)
  groups = (
    ('the mean,\nall at one rate', 'mean', False),
    ('a blind filter\nof the same rate', 'random', False),
    ('the mean with\nas many updates', 'equal_updates', False),
    ('the mean,\nall tuned', 'mean', True))
  wrong = [noise for noise in config.noise_rates if noise]
  width = 0.8 / max(len(wrong), 1)
  for j, (noise, color) in enumerate(zip(wrong, plots.shades(len(wrong)))):
    for i, (_, other, is_tuned) in enumerate(groups):
      at = i + (j - (len(wrong) - 1) / 2) * width
      found = intervals.of_mean(
        gain(config, reduced, other, noise, is_tuned=is_tuned))
      if not found.is_known:
        continue
      ax.bar(at, 100 * found.value, 0.9 * width, color=color,
             label=f'{noise:.0%} wrong labels' if i == 0 else None)
      ax.plot([at, at], [100 * found.low, 100 * found.high], color='#222222',
              lw=1)
      if i == 0 and noise in PAPER_GAINS:
        ax.plot(at, 100 * PAPER_GAINS[noise], 'D', mfc='white', mec='#222222',
                label='the paper' if j == 0 else None)
  ax.axhline(0, color='#222222', lw=0.8)
  ax.set_xticks(range(len(groups)), [f'over {name}' for name, *_ in groups])
  ax.tick_params(axis='x', length=0)
  ax.grid(axis='x', visible=False)
  ax.set(ylabel='points of accuracy gained', title='What agreement filtering '
         'gains, by what it is compared with')
  ax.legend()
  return figure


def accuracy(config, reduced, claims):
  """Show test accuracy beyond the mean: the rules, and the controls."""
  del claims
  figure, ((left, right),) = plots.panels(2, height=3.6, sharey=True)
  rules = (*config.combines, 'geometric_median')
  labels = {arm.name: arm.label for arm in list_arms(config)}
  noises = 100 * np.array(config.noise_rates)
  for ax, names in ((left, rules), (right, CONTROLS)):
    for k, name in enumerate(names):
      gains = (reduced.at_best(name)['test']
               - reduced.at_best('mean')['test'])
      found = np.array([intervals.of_mean(x) for x in gains.values])
      color, marker = STYLE[name]
      dodge = (k - (len(names) - 1) / 2)
      _points(ax, noises + 2 * dodge, found, color, marker, labels[name])
    ax.axhline(0, color='#222222', lw=0.8)
    ax.set(xlabel='wrong labels (%)', xticks=noises)
    ax.legend(loc='lower left', bbox_to_anchor=(0, 1.1), fontsize=7)
  left.set(ylabel='test accuracy beyond the mean\n(points, 95 % interval)',
           title='Rules, each tuned')
  right.set(title='Controls, each tuned')
  return figure


def distances(config, reduced, claims):
  """Show how far apart micro-gradients are, and which steps are skipped."""
  del claims
  figure, ((left, right),) = plots.panels(2, height=3.2)
  tau, rate = config.control_threshold, config.learning_rates[-1]
  colors = plots.shades(len(config.noise_rates))
  for name, style in (('mean', '--'), (FILTER, '-')):
    run = reduced.at_one_rate(name, tau).mean('seed')
    distance = 1 - analysis.by_stage(run['cosine']) / config.every
    skipped = analysis.by_stage(run['sizes'].isel(count=0)) / config.every
    for i, (noise, color) in enumerate(zip(config.noise_rates, colors)):
      label = f'{noise:.0%} wrong' if name == FILTER else None
      left.plot(distance['step'], distance[i], color=color, ls=style)
      if name == FILTER:
        right.plot(skipped['step'], 100 * skipped[i], color=color, ls=style,
                   label=label)
  left.axhline(1, color='#222222', lw=0.8, ls=':')
  left.set(xlabel='step', ylabel='mean cosine distance',
           title='Micro-gradients are nearly orthogonal\n'
           f'(rate {rate:g}; solid: filter, dashed: mean)')
  right.set(xlabel='step', ylabel='steps without agreement (%)',
            ylim=(0, None),
            title=f'Steps that the filter skips\nat $\\tau$ = {tau:g}')
  right.legend()
  return figure


def thresholds(config, reduced, claims):
  """Show accuracy beyond the mean by threshold, at the middle noise."""
  del claims
  figure, ((left, right),) = plots.panels(2, height=3.6)
  noise = config.noise_rates[len(config.noise_rates) // 2]
  labels = {arm.name: arm.label for arm in list_arms(config)}
  for k, name in enumerate(config.combines):
    color, marker = STYLE[name]
    tuned = reduced.tuned[name]['test'] - reduced.tuned['mean']['test'].isel(
      threshold=0, drop=True)
    fixed = (analysis.final(reduced.runs[name].isel(rate=-1))
             - analysis.final(reduced.runs['mean'].isel(rate=-1)).isel(
               threshold=0, drop=True))
    for ax, gains in ((left, tuned), (right, fixed)):
      found = np.array([intervals.of_mean(x)
                        for x in gains.sel(noise=noise).values])
      _points(ax, np.arange(len(found)) + 0.12 * k, found, color, marker,
              labels[name])
  for ax in (left, right):
    ax.axhline(0, color='#222222', lw=0.8)
    ax.set_xticks(np.arange(len(config.thresholds)) + 0.18,
                  [f'{tau:g}' for tau in config.thresholds])
    ax.set(xlabel='threshold $\\tau$ (cosine distance)')
  left.set(ylabel='accuracy beyond the mean\n(points, 95 % interval)',
           title='Test accuracy, rate tuned')
  right.set(title=f'Validation, rate {config.learning_rates[-1]:g}')
  figure.legend(
    *left.get_legend_handles_labels(), loc='outside upper left', ncols=4,
    title=f'Accuracy by threshold, {100 * noise:.0f} % wrong labels',
    alignment='left')
  return figure


def _points(ax, x, found, color, marker, label):
  """Draw percentages with their intervals: rows of (value, low, high)."""
  ax.errorbar(x, 100 * found[:, 0],
              100 * np.abs(found[:, 1:] - found[:, :1]).T, color=color,
              marker=marker, ms=4, lw=0, elinewidth=1.4, label=label)
