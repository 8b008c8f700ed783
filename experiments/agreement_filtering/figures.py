"""The figures of `agreement_filtering`."""

import numpy as np

from experiments.agreement_filtering import analysis
from experiments.agreement_filtering.arms import list_arms
from experiments.agreement_filtering.claims import PAPER_GAINS, gain
from experiments.agreement_filtering.config import FILTER
from experiments.common import intervals, marks, plots

CONTROLS = ('random', 'equal_updates', 'mean_clean', f'{FILTER}_clean')
# The same arm has the same color in every figure.
ARMS = (FILTER, 'halving', 'first', 'leave_one_out', 'geometric_median',
        *CONTROLS)
STYLE = {arm: {'color': color, 'marker': marker}
         for arm, color, marker in zip(ARMS, plots.COLORS, plots.MARKERS)}


def agreement(config, reduced, claims):
  """Show what filtering gains, and how it shrinks under each control."""
  figure, ((ax,),) = plots.panels(height=3.4)
  groups = (
    ('the mean,\nall at one rate', 'mean', False),
    ('a blind filter\nof the same rate', 'random', False),
    ('the mean with\nas many updates', 'equal_updates', False),
    ('the mean,\nall tuned', 'mean', True))
  wrong = [noise for noise in config.noise_rates if noise]
  width = 0.8 / max(len(wrong), 1)
  for j, (noise, color) in enumerate(zip(wrong, plots.shades(len(wrong)))):
    places = np.arange(len(groups)) + (j - (len(wrong) - 1) / 2) * width
    found = 100 * np.array([intervals.of_mean(
      gain(config, reduced, other, noise, is_tuned=is_tuned))
      for _, other, is_tuned in groups])
    ax.bar(places, found[:, 0], 0.9 * width, color=color,
           label=f'{noise:.0%} wrong labels')
    marks.points(ax, places, found, color=marks.INK, marker='', elinewidth=1)
    if noise in PAPER_GAINS:
      ax.plot(places[0], 100 * PAPER_GAINS[noise], **marks.PAPER,
              label=None if j else 'the paper')
  _compared(ax)
  ax.set_xticks(range(len(groups)), [f'over {name}' for name, *_ in groups])
  ax.tick_params(axis='x', length=0)
  ax.grid(axis='x', visible=False)
  ax.set(ylabel='points of accuracy gained\n(lines: 95 % intervals)',
         title='What agreement filtering gains, by what it is compared with')
  ax.legend()
  return figure


def accuracy(config, reduced, claims):
  """Show test accuracy beyond the mean: the rules, and the controls."""
  figure, ((left, right),) = plots.panels(2, height=3.6, sharey=True)
  rules = (*config.combines, 'geometric_median')
  noises = 100 * np.array(config.noise_rates)
  for ax, names in ((left, rules), (right, CONTROLS)):
    for k, name in enumerate(names):
      gains = reduced.test_at_best(name) - reduced.test_at_best('mean')
      _points(ax, noises + 2 * k - len(names) + 1, gains, name, config)
    _compared(ax)
    ax.set(xlabel='wrong labels (%)', xticks=noises)
    ax.legend(loc='lower left', bbox_to_anchor=(0, 1.1), fontsize=7)
  left.set(ylabel='test accuracy beyond the mean\n(points, 95 % interval)',
           title='Rules, each tuned')
  right.set(title='Controls, each tuned')
  return figure


def distances(config, reduced, claims):
  """Show how far apart micro-gradients are, and which steps are skipped."""
  figure, ((left, right),) = plots.panels(2, height=3.2)
  tau, colors = config.control_threshold, plots.shades(len(config.noise_rates))
  for name, style in (('mean', '--'), (FILTER, '-')):
    run = reduced.at_one_rate(name, tau).mean('seed')
    distance = analysis.distance(config, run)
    for i, color in enumerate(colors):
      left.plot(distance['step'], distance[i], color=color, ls=style)
  # Of the filter, the last of the two.
  skipped = run['sizes'].isel(count=0).diff('step') / config.every
  for noise, color, share in zip(config.noise_rates, colors, skipped):
    right.plot(skipped['step'], 100 * share, color=color,
               label=f'{noise:.0%} wrong')
  left.axhline(1, color=marks.INK, lw=0.8, ls=':')
  left.set(xlabel='step', ylabel='mean cosine distance',
           title='Micro-gradients are nearly orthogonal\n'
           f'(rate {config.learning_rates[-1]:g}; solid: filter, dashed: mean)')
  right.set(xlabel='step', ylabel='steps without agreement (%)',
            ylim=(0, None),
            title=f'Steps that the filter skips\nat $\\tau$ = {tau:g}')
  right.legend()
  return figure


def thresholds(config, reduced, claims):
  """Show accuracy beyond the mean by threshold, at the middle noise."""
  figure, ((left, right),) = plots.panels(2, height=3.6)
  noise = config.noise_rates[len(config.noise_rates) // 2]
  at_last_rate = lambda arm: analysis.final(reduced.runs[arm].isel(rate=-1))
  for ax, score in ((left, lambda arm: reduced.tuned[arm]['test']),
                    (right, at_last_rate)):
    for k, name in enumerate(config.combines):
      gains = score(name) - score('mean').isel(threshold=0, drop=True)
      _points(ax, np.arange(len(config.thresholds)) + 0.12 * k,
              gains.sel(noise=noise), name, config)
    _compared(ax)
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


def _compared(ax):
  """Draw where there is no gain."""
  ax.axhline(0, color=marks.INK, lw=0.8)


def _points(ax, x, gains, arm, config):
  """Draw the gains [place, seed] of an arm, in points."""
  label = next(a.label for a in list_arms(config) if a.name == arm)
  marks.means(ax, x, 100 * gains.values, ms=4, label=label, **STYLE[arm])
