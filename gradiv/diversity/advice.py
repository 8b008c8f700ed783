"""What another batch size would cost, and save, in words and in numbers.

With the noise scale ρ = B_S − 1, one step on B examples, with the best step
size, makes 1/(1 + ρ/B) of the progress of a step on exact gradients
(`steps_factor`). A stretch of training thus takes steps in proportion to
1 + ρ/B, and gradients, B a step, in proportion to B + ρ. Both factors only
rise or only fall with ρ, so an interval for B_S is one for them.

McCandlish et al., `An Empirical Model of Large-Batch Training
<https://arxiv.org/abs/1812.06162>`_, 2018, section 2.3.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from gradiv._common import checks
from gradiv.diversity import _equality, metrics
from gradiv.diversity.reading import Reading

# Batch sizes that are compared, as powers of two of the present one.
_EXPONENTS = (-4, -3, -2, -1, 1, 2, 3, 4, 5, 6)

_NOTHING = (
  'no gradients have been compared, as before the first step, with one worker, '
  'or if no step was finite')


class Factor(NamedTuple):
  """A factor with its interval; NaN in place of a value that is not known."""

  value: float
  low: float
  high: float


class Cost(NamedTuple):
  """What training on another batch size takes, over what it takes now.

  Attributes:
    batch_size: The other batch size, in examples.
    steps: Factor on the number of steps.
    gradients: Factor on the number of gradients, which is that of examples.
  """

  batch_size: float
  steps: Factor
  gradients: Factor


@dataclasses.dataclass(frozen=True)
class Advice:
  """What is known of B_S beside a batch size; prints as a sentence.

  Attributes:
    batch_size: The present batch size, in examples.
    bound: B_S over the window, with its interval. If no window knows it, the
      value is NaN, the lower end the one-sided bound, and the upper end may be
      infinite.
    window: Number of steps that this is about; 0 if B_S is not known to within
      a factor of two.
    steps_until_known: See `Reading`.
    costs: What other batch sizes would take: 1/16 to 64 times the present one.
    obstacle: Why nothing at all is known of B_S; '' if something is.
  """

  batch_size: float
  bound: Factor
  window: int
  steps_until_known: float
  costs: tuple[Cost, ...] = ()
  obstacle: str = ''

  def cost(self, batch_size: float) -> Cost:
    """Predict what any other batch size would take, with the best step size."""
    checks.positive('batch_size', batch_size)
    ends = (self.bound.value, self.bound.low, self.bound.high)
    each = [_factors(self.batch_size, batch_size, bound - 1) for bound in ends]
    return Cost(batch_size, *(
      Factor(value, min(ends), max(ends)) for value, *ends in zip(*each)))

  def __str__(self) -> str:
    return f'{self._judgment()}{self._outlook()}'

  def _judgment(self):
    b, (_, low, high) = self.batch_size, self.bound
    if self.obstacle:
      return f'batch {_number(b)} cannot be judged: {self.obstacle}'
    here = f'batch {_number(b)} is'
    if low >= 2 * b:
      other = self.cost(b * 2**math.floor(math.log2(low / b)))
      far = 'far ' if low >= 4 * b else ''
      return (f'{here} {far}below {self._bound()}: {_number(other.batch_size)} '
              f'costs {_more(other.gradients)} gradients and saves '
              f'{_less(other.steps)} of the steps')
    if high <= b / 2:
      other = self.cost(b / 2**math.floor(math.log2(b / high)))
      far = 'far ' if high <= b / 4 else ''
      return (f'{here} {far}above {self._bound()}: {_number(other.batch_size)} '
              f'costs {_more(other.steps)} steps and saves '
              f'{_less(other.gradients)} of the gradients')
    if self.window:
      double = self.cost(2 * b)
      return (f'{here} near {self._bound()}: {_number(2 * b)} costs '
              f'{_more(double.gradients)} gradients and saves '
              f'{_less(double.steps)} of the steps')
    return (f'batch {_number(b)} cannot be judged yet: B_S is at least '
            f'{_number(low)}')

  def _bound(self):
    value, low, high = self.bound
    if self.window:
      return (f'B_S, {_number(value)} ({_number(low)} to {_number(high)} over '
              f'the last {self.window:,} steps)')
    if high <= self.batch_size / 2:
      return f'B_S ({_number(low)} to {_number(high)})'
    return f'B_S (at least {_number(low)})'

  def _outlook(self):
    more = self.steps_until_known
    if self.window or self.obstacle:
      return ''
    if math.isnan(more):
      return ('; how many steps it takes to know B_S can be said once the mean '
              'gradient stands out of the noise, and not before step 10')
    if math.isinf(more):
      return '; to know B_S to a factor of two takes a larger batch'
    return (f'; to know B_S to a factor of two takes about {_rough(more)} more '
            f'step{"" if _rough(more) == "1" else "s"}')


def advise(reading: Reading, batch_size: float) -> Advice:
  """Say what the present batch size wastes, and what others would cost.

  Print the result, or take its numbers. If no window knows B_S, the sentence
  rests on the lower bound alone, and says "at most" and "at least"; it ends
  with how many more steps it takes to know B_S, or what is missing to say that,
  as long as the mean gradient cannot be told from zero. The costs hold for SGD
  with the best step size at every batch size, and as long as B_S stays what it
  was over the window.

  If all tracked gradients were equal up to rounding, B_S would seem to be 1,
  and nothing is advised. Most often `track_moments` then stands behind the
  aggregation, where all workers hold the same update. Else all gradients are of
  the same examples, as where each worker gets the whole data set.

  Args:
    reading: What `gradiv.read_moments` returned, outside of `jit`. Of a reading
      by groups the whole gradient is taken, because all layers share one batch.
    batch_size: Number of examples behind one update: those of one worker times
      the workers, times the micro-steps.

  Raises:
    ValueError: If `batch_size` is not positive, or if `reading` is not a
      `Reading` (but the state of a chain), is traced, or is of several runs.

  >>> import textwrap
  >>> import gradiv
  >>> tx = gradiv.track_moments()
  >>> state = tx.init(())
  >>> for i in range(64):  # ‖∇F‖² is 1.2 ± 0.2, tr Σ is 192
  ...   sample = gradiv.Moments(8., 2., 1.2 + .2 * (-1)**i + 12, 84.)
  ...   _, state = tx.update((), state, moments=sample)
  >>> advice = advise(gradiv.read_moments(state), batch_size=16)
  >>> for line in textwrap.wrap(str(advice), 60):
  ...   print(line)
  batch 16 is far below B_S, 162 (152 to 174 over the last 16
  steps): 128 costs 63 % more gradients and saves 80 % of the
  steps
  >>> round(advice.cost(64).gradients.value, 2)  # (64 + 160)/(16 + 160)
  1.27
  """
  checks.positive('batch_size', batch_size)
  batch_size = float(batch_size)
  reading = _whole(reading)
  if obstacle := _obstacle(reading, batch_size):
    advice = Advice(batch_size, Factor(math.nan, 1., math.inf), 0, math.nan,
                    obstacle=obstacle)
  else:
    advice = Advice(batch_size, _bound_of(reading), int(reading.window),
                    float(reading.steps_until_known))
  return dataclasses.replace(advice, costs=tuple(
    advice.cost(batch_size * 2.**k) for k in _EXPONENTS
    if batch_size * 2.**k >= 1))


def _whole(reading):
  """Return the reading of the whole gradient; raise ValueError if unfit."""
  if not isinstance(reading, Reading):
    raise ValueError(
      f'reading of type {type(reading).__name__}: must be what '
      'gradiv.read_moments(opt_state) returns; it finds the state of '
      'track_moments in that of a chain')
  reading = reading if reading.whole is None else reading.whole
  if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(reading)):
    raise ValueError('reading is traced: call advise outside of jit')
  shape = np.shape(reading.window)
  if shape:
    raise ValueError(f'reading of shape {shape}: must be of one run')
  return reading


def _bound_of(reading):
  """Return B_S over the window, or the lower bound on it."""
  low, high = map(float, reading.interval.of(metrics.batch_size_bound))
  if not reading.window:
    return Factor(math.nan, float(reading.batch_size_at_least), high)
  return Factor(float(metrics.batch_size_bound(reading.estimate)), low, high)


def _obstacle(reading, batch_size):
  """Return why nothing can be known of B_S; '' if it can."""
  if math.isnan(float(reading.average.sq_norm)):
    return _NOTHING
  return _equality.EQUAL if _equality.is_of_equal_gradients(
    reading, batch_size) else ''


def _factors(now: float, other: float, noise: float) -> tuple[float, float]:
  """Compute the factors on steps and on gradients, at one noise scale."""
  ratio = other / now
  gradients = 1. if math.isinf(noise) else (other + noise) / (now + noise)
  return gradients / ratio, gradients


def _more(factor: Factor) -> str:
  return _share(factor.value - 1, factor.high - 1, 'at most', ' more')


def _less(factor: Factor) -> str:
  return _share(1 - factor.value, 1 - factor.high, 'at least', '')


def _share(value, worst, word, more):
  if math.isnan(value):
    return f'{word} {100 * worst:.0f} %{more}'
  return f'{100 * value:.0f} %{more}'


def _number(x: float) -> str:
  return f'{x:.0f}' if x < 1e4 else f'{x:,.0f}'


def _rough(x: float) -> str:
  digits = -max(0, math.floor(math.log10(max(x, 1.))) - 1)
  return f'{round(x, digits):,.0f}'
