"""Read the tracked moments off an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import trees
from gradiv.diversity import intervals, tracking
from gradiv.diversity.estimates import Estimate


class Reading(NamedTuple):
  """The statistics that `track_moments` keeps, at the present step.

  Everything except `average` is about *now*: `estimate` is a line fitted to the
  tracked steps and evaluated at the present one, and `interval` is the
  confidence interval around it, so that the estimate of any ratio lies inside
  its interval. `average` has less than half of the variance of `estimate`, but
  it lags about 1/(1 − decay) steps behind. While G or S changes quickly, the
  two disagree, and `average` can lie outside the interval: then
  ``interval.is_trusted`` is False. Plot `average`; decide by `estimate` and
  `interval`, once it is trusted.

  With groups, every array has a leading axis [groups], in the order of `names`.

  Attributes:
    estimate: Estimates of ‖∇F‖² and tr Σ at the present step; before the third
      step, their averages; NaN before the first.
    interval: Confidence interval for every ratio of the two, see
      `Interval.of`.
    window: int32, the number of steps that the reading averages over; 0 if B_S
      is not known to within a factor of two.
    batch_size_at_least: Lower confidence bound on B_S, at the `level` of
      `track_moments` (95 %): the lower end of the interval if that is bounded,
      and possibly informative if not. It rests on the same line as the
      interval: while G falls along a curve, early in training, both can miss.
    average: Averages of ‖∇F‖² and tr Σ over past steps; NaN before the first.
    whole: With groups, the `Reading` of the whole gradient; otherwise None.
    encoded_names: Names of the groups, as an array; see `names`.
  """

  estimate: Estimate
  interval: intervals.Interval
  window: jax.Array
  batch_size_at_least: jax.Array
  average: Estimate
  whole: 'Reading | None' = None
  encoded_names: jax.Array | tuple[()] = ()

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the groups; () without groups. Not available under `jit`."""
    return tracking.decode_names(self.encoded_names)


def read_moments(opt_state: Any) -> Reading:
  """Read the statistics of `track_moments` from an optimizer's state.

  Works inside and outside of `jit`. For the states of several runs, stacked
  along a leading axis, use ``jax.vmap(read_moments)``.

  Args:
    opt_state: Any tree that contains exactly one `TrackMomentsState`, such as
      the state of a chain.

  Returns:
    The `Reading`; with groups, its arrays have a leading axis [groups].

  Raises:
    ValueError: If there is no `TrackMomentsState`, or more than one. In the
      latter case pass one of them, such as ``opt_state[0]`` of a chain.

  >>> import gradiv
  >>> tx = gradiv.track_moments(decay=0.9)
  >>> state = tx.init(())
  >>> for deviation in (1., 1.2, .9, 1.1, .8, 1., 1.1, .9):
  ...   sample = gradiv.Moments(8., 1., 1., deviation)
  ...   _, state = tx.update((), state, moments=sample)
  >>> reading = read_moments(state)
  >>> low, high = reading.interval.of(gradiv.batch_size_bound)
  >>> bool(low <= gradiv.batch_size_bound(reading.estimate) <= high)
  True
  """
  is_state = lambda x: isinstance(x, tracking.TrackMomentsState)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_state)
           if is_state(x)]
  if len(found) != 1:
    raise ValueError(
      f'opt_state holds {len(found)} states of track_moments: must be one; '
      'of several, pass the one to read, such as opt_state[0]')
  state, = found
  # nnx.Optimizer wraps each array in a variable, which is itself a tree.
  state = jax.tree.map(lambda x: jnp.asarray(jax.tree.leaves(x)[0]), state,
                       is_leaf=lambda x: not isinstance(x, tuple))
  if isinstance(state.encoded_names, tuple):
    return _read(state.averages, state.decay, state.level)
  rows = jax.vmap(_read, (0, None, None))(
    state.averages, state.decay, state.level)
  groups, whole = (jax.tree.map(lambda x: x[at], rows)
                   for at in (slice(-1), -1))
  return groups._replace(whole=whole, encoded_names=state.encoded_names)


def _read(averages, decay, level):
  average, present = intervals.average(averages), intervals.present(averages)
  early = averages.count < 3
  return Reading(
    estimate=trees.select(early, average, present),
    interval=intervals.interval(averages, decay, level=level),
    window=intervals.window(averages, decay, level=level),
    batch_size_at_least=intervals.batch_size_at_least(
      averages, decay, level=level),
    average=average)
