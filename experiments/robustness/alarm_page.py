"""Shows what the alarm finds: a table as Markdown, and a figure."""

import textwrap

import numpy as np

from experiments.common import plots
from experiments.robustness import alarms, training

LIMIT = alarms.STEPS_TO_FALSE_ALARM.index(1e5)
JUMP = alarms.JUMPS.index(2.0)
_PARTS = {'the exponent': slice(23, 31), 'the sign': slice(31, 32),
          'the mantissa': slice(0, 23)}
# The faults that the figure has lines for.
_SHOWN = ('zeros', 'its gradient × −1', 'its gradient × 2', 'all labels wrong',
          '3 labels in 10 wrong', '1 label in 10 wrong')


def tables(found: dict[str, alarms.Found]) -> str:
  """Write what is found of each fault, by setting, and how often for nothing.
  """
  settings = found.values()
  rows = [f'| {fault} | ' + ' | '.join(
    _delay(each.first_steps[fault][LIMIT]) for each in settings) + ' |'
    for fault in training.LASTING]
  flips = [f'| {part} | ' + ' | '.join(
    f'{_share(x[bits])}' for each in settings for x in each.by_bit[::-1]) + ' |'
    for part, bits in _PARTS.items()]
  heads = ' | '.join(f'{name}: harmful | seen' for name in found)
  return '\n'.join([
    '| a fault that lasts | ' + ' | '.join(found) + ' |',
    '|---' * (1 + len(found)) + '|', *rows, '',
    _wrapped(
      'Steps until it is named: the median and, in brackets, the 90th '
      f'percentile of {training.NUM_SEEDS} seeds. Another worker was named in '
      f'{sum(sum(each.wrong.values()) for each in settings)} of '
      f'{len(found) * len(training.LASTING) * training.NUM_SEEDS} runs.'), '',
    f'| one bit flipped in | {heads} |', '|---' * (1 + 2 * len(found)) + '|',
    *flips, '', *(line for name, each in found.items()
                  for line in (_wrapped(_errors(name, each)), ''))])


def _wrapped(text):
  return textwrap.fill(text, 100, break_on_hyphens=False)


def _errors(name, found):
  return (f'On {name}, the alarm sees {100 * found.harmful[JUMP]:.0f} % of the '
          'harmful flips at once. While all workers were healthy, it named one '
          f'{found.false_alarms[LIMIT]} times in {found.steps:,} steps, and '
          'counted jumps in '
          f'{found.false_jumps[JUMP] * found.compared_steps:.0f} of '
          f'{found.compared_steps:,} steps.')


def _delay(steps):
  middle, most = np.percentile(steps, (50, 90), method='higher')
  most = f'{most:.0f}' if np.isfinite(most) else (
    f'> {training.BROKEN_STEPS}')
  return f'{middle:.0f} ({most})' if np.isfinite(middle) else (
    f'> {training.BROKEN_STEPS}')


def _share(x):
  return f'{100 * np.mean(x):.0f} %'


def figure(found: dict[str, alarms.Found]):
  """Draw the ROC of a step, and the delay that a promise costs."""
  drawn, ((left, right),) = plots.panels(2)
  for (name, each), color, marker in zip(
      found.items(), plots.COLORS, plots.MARKERS):
    never = 0.5 / each.compared_steps
    x = np.maximum(each.false_jumps, never)
    left.plot(x, each.harmful, color=color, marker=marker, label=name)
  for jump, *at in zip(alarms.JUMPS, x, each.harmful):
    if at[0] > never:
      left.annotate(f'{jump:g}', at, (0, 5), textcoords='offset points',
                    ha='center', fontsize=7, color=color)
  left.set(xscale='log', ylim=(0, 1.05), title='Jumps, by their threshold',
           xlabel='healthy steps with a jump\n(leftmost: none in '
           f'{each.compared_steps:,})', ylabel='harmful flips that are seen')
  left.legend()
  name, each = [*found.items()][-1]
  for fault, color, marker in zip(_SHOWN, plots.COLORS, plots.MARKERS):
    middle = np.median(each.first_steps[fault], axis=1)
    if np.isfinite(middle).any():  # hollow, as some lie on one another
      right.plot(alarms.STEPS_TO_FALSE_ALARM,
                 np.where(np.isfinite(middle), middle, np.nan), color=color,
                 marker=marker, mfc='none', label=fault)
  right.set(xscale='log', yscale='log', title=f'Naming the worker, {name}',
            xlabel='steps to a false alarm, promised',
            ylabel='steps until it is named (median)')
  plots.plain_numbers(right).legend(fontsize=7)
  return drawn
