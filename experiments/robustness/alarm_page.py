"""Shows what the alarm finds: a table as Markdown, and a figure."""

import numpy as np

from experiments.common import plots
from experiments.robustness import alarms, training

_PARTS = {'the exponent': slice(23, 31), 'the sign': slice(31, 32),
          'the mantissa': slice(0, 23)}
# The faults that the figure has lines for.
_SHOWN = ('zeros', 'its gradient × −1', 'its gradient × 2', 'all labels wrong',
          '3 labels in 10 wrong', '1 label in 10 wrong')


def tables(found: alarms.Found) -> str:
  """Write what is found of each fault, and how often for nothing."""
  limit = alarms.STEPS_TO_FALSE_ALARM.index(1e5)
  rows = []
  for fault, steps in found.first_steps.items():
    median, most = np.percentile(steps[limit], (50, 90), method='higher')
    rows.append(f'| {fault} | {_steps(median)} | {_steps(most)} | '
                f'{np.isfinite(steps[limit]).sum()} of {steps.shape[1]} | '
                f'{found.wrong[fault]} |')
  seen, harms = found.by_bit
  flips = [f'| {part} | {_share(harms[bits])} | {_share(seen[bits])} |'
           for part, bits in _PARTS.items()]
  at = alarms.JUMPS.index(2.0)
  return '\n'.join([
    '| a fault that lasts | steps until it is named: median | 90 % | runs | '
    'another was named |', '|---|---|---|---|---|', *rows, '',
    '| one bit flipped in | does harm | is seen at once |', '|---|---|---|',
    *flips, '',
    f'Of the flips that do harm, {100 * found.harmful[at]:.1f} % are seen. '
    f'Of healthy workers, {found.false_alarms[limit]} were named in '
    f'{found.steps:,} steps, and a worker jumped in '
    f'{found.false_jumps[at] * found.compared_steps:.0f} of '
    f'{found.compared_steps:,}.', ''])


def _steps(x):
  return f'{x:.0f}' if np.isfinite(x) else f'more than {training.BROKEN_STEPS}'


def _share(x):
  return f'{100 * np.mean(x):.0f} %'


def figure(found: alarms.Found):
  """Draw the ROC of a step, and the delay that a promise costs."""
  drawn, ((left, right),) = plots.panels(2)
  left.plot(np.maximum(found.false_jumps, 2e-5), found.harmful, 'o-',
            color=plots.COLORS[0])
  for jump, x, y in zip(alarms.JUMPS, found.false_jumps, found.harmful):
    left.annotate(f'{jump:g}', (max(x, 2e-5), y), (0, -12),
                  textcoords='offset points', ha='center', fontsize=8)
  left.set(xscale='log', ylim=(0, 1.05), xlabel='healthy steps with a jump',
           ylabel='harmful flips that are seen',
           title='Jumps, by their threshold')
  for fault, color, marker in zip(_SHOWN, plots.COLORS, plots.MARKERS):
    middle = np.median(found.first_steps[fault], axis=1)
    right.plot(alarms.STEPS_TO_FALSE_ALARM,
               np.where(np.isfinite(middle), middle, np.nan),
               color=color, marker=marker, label=fault)
  right.set(xscale='log', yscale='log', title='Naming who is not like the rest',
            xlabel='steps to a false alarm, promised',
            ylabel='steps until it is named (median)')
  plots.plain_numbers(right).legend(fontsize=7)
  return drawn
