"""Read the tracked moments off an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import trees
from gradiv.diversity import averages, intervals, tracking, windows
from gradiv.diversity.estimates import Estimate


class Reading(NamedTuple):
  """What `track_moments` knows at the present step.

  B_S is that of a *window* of past steps, all of nearly equal weight. The
  window is the shortest in which B_S is known to within a factor of two, so
  that it is as near to the present as the noise allows; B_S of the last few
  steps can differ from it by a factor of 1.5. If no window is long enough,
  `window` is 0, and `batch_size_at_least` says what is known; it then is about
  the longest window, of up to 2,048 steps. Pass the reading to `advise` to see
  what another batch size would cost.

  With groups, every array has a leading axis [groups], in the order of `names`.

  Attributes:
    estimate: Estimates of ‖∇F‖² and tr Σ: in the ratio of the window, and with
      the sum of `average`. Before the second step, the average; NaN before the
      first.
    interval: Confidence interval for every ratio of the two over the window,
      see `Interval.of`. `Interval.is_trusted` says whether there is a window.
    window: int32, the number of steps of the window; 0 if B_S is not known to
      within a factor of two.
    batch_size_at_least: Lower confidence bound on B_S, one-sided, at the
      `level` of `track_moments` (95 %); 1 where nothing is known.
    steps_until_known: Predicted number of further steps until B_S is known to
      within a factor of two: 0 if it is; infinite if at this batch size no
      window is long enough, so that only a larger batch can tell; NaN if that
      cannot be predicted yet.
    average: Averages of ‖∇F‖² and tr Σ over about 1/(1 − decay) steps, of which
      larger gradients dominate; NaN before the first.
    last: Estimates of the last step alone; NaN before the first.
    whole: With groups, the `Reading` of the whole gradient; otherwise None.
    encoded_names: Names of the groups, as an array; see `names`.
  """

  estimate: Estimate
  interval: intervals.Interval
  window: jax.Array
  batch_size_at_least: jax.Array
  steps_until_known: jax.Array
  average: Estimate
  last: Estimate
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
  >>> tx = gradiv.track_moments()
  >>> state = tx.init(())
  >>> for deviation in (1., 1.2, .9, 1.1, .8, 1., 1.1, .9, 1., 1.1, .9, 1.):
  ...   sample = gradiv.Moments(8., 1., 1., deviation)
  ...   _, state = tx.update((), state, moments=sample)
  >>> reading = read_moments(state)
  >>> low, high = reading.interval.of(gradiv.batch_size_bound)
  >>> f'{low:.2f} to {high:.2f}, over the last {reading.window} steps'
  '2.23 to 2.45, over the last 8 steps'
  """
  state = trees.unwrapped(trees.only_state(
    opt_state, tracking.TrackMomentsState, 'track_moments'))
  if isinstance(state.encoded_names, tuple):
    return _read(state.averages, state.windows, state.level)
  rows = jax.vmap(_read, (0, 0, None))(
    state.averages, state.windows, state.level)
  groups, whole = (jax.tree.map(lambda x: x[at], rows)
                   for at in (slice(-1), -1))
  return groups._replace(whole=whole, encoded_names=state.encoded_names)


@jax.jit  # one program, where each operation would be compiled by itself
def _read(sums, sums_of_windows, level):
  average = averages.average(sums)
  known = windows.read(sums_of_windows, level=level)
  total = average.sq_norm + average.variance
  ratio = Estimate(known.fraction * total, (1 - known.fraction) * total)
  end = lambda p: Estimate(p, 1 - p)
  return Reading(
    estimate=trees.select(jnp.isnan(known.fraction), average, ratio),
    interval=intervals.Interval(
      lower=end(known.most), upper=end(known.least),
      is_trusted=known.window > 0),
    window=known.window,
    batch_size_at_least=known.batch_size_at_least,
    steps_until_known=known.steps_until_known,
    average=average,
    last=averages.last(sums))
