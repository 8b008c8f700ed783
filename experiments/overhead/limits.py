"""The limits that we set for what gradiv costs, beside what was measured."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

# What is counted in bytes is rounded to as many digits as the limits have.
_DIGITS = 2


class Limit(NamedTuple):
  """A ratio within one run that should not be exceeded.

  Attributes:
    what: What is measured, over what.
    most: The largest ratio allowed.
    values: (record of `overhead`, that of `overhead.examples`) -> each ratio
      by where it was measured.
  """

  what: str
  most: float
  values: Callable[[dict, dict], dict[str, float]]


def _tracked(overhead, examples):
  del examples
  layers, rows = overhead['layers']['ways'], overhead['training']['rows']
  return {
    'transformer': _over(rows, '`track_moments`', 'plain', 'milliseconds'),
    'dense layers': _over(layers, 'tracked', 'mean', 'milliseconds')}


def _compiled(overhead, examples):
  del examples
  ways = overhead['layers']['ways']
  return {'whole': _over(ways, 'tracked', 'mean', 'compile_seconds'),
          'by layer': _over(
            ways, 'tracked by layer', 'mean', 'compile_seconds')}


def _exchanged(way, over, column, largest=False):
  """Compare two ways to exchange gradients, at each D or at the largest."""
  def values(overhead, examples):
    del examples
    sizes = overhead['exchange']
    if largest:
      sizes = {max(sizes, key=int): sizes[max(sizes, key=int)]}
    return {f'D = {_power(size)}':
            _over(ways, way, over, column) if over else ways[way][column]
            for size, ways in sizes.items()}
  return values


def _per_example(column, names):
  def values(overhead, examples):
    del overhead
    return {name: _over(result['ways'], 'gradiv', 'plain', column)
            for name, result in examples['results'].items() if name in names}
  return values


def _clipping(overhead, examples):
  """Compare clipping with JAX-Privacy's, where that is installed."""
  del overhead
  return {name: _over(result['ways'], 'gradiv_clipping', 'jax_privacy',
                      'milliseconds')
          for name, result in examples['results'].items()
          if 'jax_privacy' in result['ways']}


def _collectives(overhead, examples):
  del examples
  return {f'D = {_power(size)}': sum(
    ways['gossip on a ring']['collectives'].values())
    for size, ways in overhead['exchange'].items()}


def _rules(overhead, examples):
  """Find our time over TorchJD's, for the slowest rule at each size."""
  del examples
  if isinstance(overhead['peers'], str):
    return {}
  return {f'n = {cell["n"]}, D = {_power(cell["D"])}': max(
    times['ours'] / times['theirs'] for times in cell['rules'].values()
    if 'ours' in times) for cell in overhead['peers']}


def _power(size: int | str) -> str:
  """Write a round number short.

  >>> _power('1000000')
  '1e6'
  """
  return f'{int(size):.0e}'.replace('e+0', 'e')


def _over(ways, one, other, column):
  return ways[one][column] / ways[other][column]


_DENSE, _CONV = ('mlp', 'lstm', 'transformer'), ('cnn', 'small_cnn', 'resnet18')
LIMITS = (
  Limit('`track_moments`, step over the step with the mean', 1.02, _tracked),
  Limit('`track_moments`, trace and compile, 100 layers', 1.3, _compiled),
  Limit('agreement filtering, bytes over an all-reduce', 1.01,
        _exchanged('agreement', 'mean', 'sent')),
  Limit('agreement filtering, time over gathering everything', 0.2,
        _exchanged('agreement', 'agreement, gathered', 'milliseconds', True)),
  Limit('agreement filtering, temporary memory in gradients', 1.5,
        _exchanged('agreement', None, 'memory')),
  Limit('mean in 8 bits, bytes over the mean', 0.27,
        _exchanged('8-bit mean', 'mean', 'sent')),
  Limit('mean in 4 bits, bytes over the mean', 0.14,
        _exchanged('4-bit mean', 'mean', 'sent')),
  Limit('mean in 8 bits, time over the mean', 3.0,
        _exchanged('8-bit mean', 'mean', 'milliseconds')),
  Limit('mean in 4 bits, time over the mean', 3.0,
        _exchanged('4-bit mean', 'mean', 'milliseconds')),
  Limit('gossip on a ring, collectives', 2, _collectives),
  Limit('`example_moments`, time over a plain step', 1.3,
        _per_example('milliseconds', _DENSE)),
  Limit('the same, networks of convolutions', 1.5,
        _per_example('milliseconds', _CONV)),
  Limit('`example_moments`, trace and compile', 1.5,
        _per_example('build_seconds', (*_DENSE, *_CONV))),
  Limit('`example_moments`, temporary memory', 1.5,
        _per_example('memory', (*_DENSE, *_CONV))),
  Limit("clipping, our time over JAX-Privacy's", 1.0, _clipping),
  Limit("slowest rule, our time over TorchJD's", 1.0, _rules),
)


def rows(overhead: dict, examples: dict) -> Iterator[str]:
  """Write a row of Markdown for each limit.

  Args:
    overhead: Record of `experiments.overhead`.
    examples: Record of `experiments.overhead.examples`.
  """
  for what, most, values in LIMITS:
    found = values(overhead, examples)
    shown = ', '.join(f'{x:.{_DIGITS}f} ({where})'
                      for where, x in found.items()) or 'not measured'
    worst = max(found.values(), default=np.nan)
    is_within = round(worst, _DIGITS) <= most
    verdict = '' if np.isnan(worst) else 'yes' if is_within else '**no**'
    yield f'| {what} | {most:g} | {shown} | {verdict} |'
