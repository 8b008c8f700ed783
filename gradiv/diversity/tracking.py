"""Metrics carried in the state of the optimizer.

Place `track_moments` before the aggregation: it looks at the workers'
gradients, hands them on as they are, and keeps averages of ‖∇F‖² and tr Σ in
its state, which jit, scan and checkpoints carry like any other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv.diversity import intervals, metrics, moments


class TrackMomentsState(NamedTuple):
  """What `track_moments` knows; of full shape from `init` on.

  Attributes:
    count: int32, steps that entered the averages.
    num_skipped: int32, steps left out since a statistic was not finite.
    estimate: Averages of ‖∇F‖² and tr Σ; NaN while unavailable.
    interval: For every ratio of the two; see `confidence.Interval`.
    layers: By name, the (estimate, interval) of each group.
    averages: The running sums behind them, by group; '' is the whole.
  """

  count: jax.Array
  num_skipped: jax.Array
  estimate: metrics.Estimate
  interval: intervals.Interval
  layers: dict[str, tuple[metrics.Estimate, intervals.Interval]]
  averages: dict[str, intervals.Averages]


def track_moments(
  axis_name: workers.AxisName,
  *,
  batch_size: float,
  decay: float = 0.99,
  num_examples: int | None = None,
  reduction: str = 'mean',
  groups: moments.Grouping | None = None,
  level: float = 0.95,
) -> optax.GradientTransformationExtraArgs:
  """Track the moments of the workers' gradients; leave the updates alone.

  Each step's unbiased G and S are averaged apart, Σ βʲ x_{t−j} / Σ βʲ, never
  clipped before, and with them comes a confidence interval for each ratio.

  >>> import gradiv
  >>> tx = optax.chain(track_moments('workers', batch_size=2),
  ...                  gradiv.aggregate_by_mean('workers'), optax.sgd(.1))
  >>> state = tx.init(jnp.zeros(1))
  >>> step = gradiv.map_workers(lambda g, s: tx.update(g, s), 'workers',
  ...                           in_axes=(0, None), out_axes=None)
  >>> _, state = step(jnp.array([[1.], [3.]]), state)
  >>> estimate = optax.tree.get(state, 'estimate')
  >>> float(estimate.sq_norm), float(estimate.variance)
  (3.0, 4.0)

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    batch_size: Examples behind one worker's gradient, so that the estimates
      are per example and comparable across layouts.
    decay: β. The noise of the averages is that of 1/(1 − β) or so steps.
    num_examples: Of a finite data set drawn from without replacement.
    reduction: 'mean' or 'sum', of the loss over its batch.
    groups: Also tracks each group of leaves, such as `gradiv.by_layer`.
    level: Of the confidence intervals.

  With one worker everything stays NaN: unavailable. A step whose statistics
  are not finite changes nothing but `num_skipped`.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the gradients
      have been reduced over the axis already.
  """
  workers.names_of(axis_name)
  moments.check_batch_size(batch_size)
  moments.check_reduction(reduction)
  for what, value in (('decay', decay), ('level', level)):
    if not 0 < value < 1:
      raise ValueError(f'{what}={value!r}: must lie between 0 and 1')
  if num_examples is not None and not num_examples >= 1:
    raise ValueError(f'num_examples={num_examples!r}: must be at least 1')

  def read(averages):
    return (intervals.average(averages),
            intervals.interval(averages, decay, level=level))

  def state_of(count, num_skipped, averages):
    estimate, interval = read(averages[''])
    layers = {k: read(v) for k, v in averages.items() if k}
    return TrackMomentsState(count, num_skipped, estimate, interval, layers,
                             averages)

  def init_fn(params):
    names = {''}
    if groups:
      paths = jax.tree_util.tree_leaves_with_path(params)
      names |= {groups(path) for path, _ in paths}
    averages = {name: intervals.init() for name in names}
    return state_of(jnp.int32(0), jnp.int32(0), averages)

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    workers.check_private(updates, axis_name)
    if workers.num_workers(axis_name) == 1:
      return updates, state
    samples = moments.worker_moments(
      updates, axis_name, batch_size=batch_size, reduction=reduction,
      groups=groups or (lambda path: '')
    )
    if groups:
      samples[''] = _add_up(samples.values())
    samples = {name: metrics.estimate(m, num_examples=num_examples)
               for name, m in samples.items()}
    finite = jnp.isfinite(samples[''].sq_norm + samples[''].variance)
    averages = {
      name: intervals.update(state.averages[name], sample, decay)
      for name, sample in samples.items()
    }
    new = state_of(optax.safe_increment(state.count), state.num_skipped,
                   averages)
    kept = state._replace(
      num_skipped=optax.safe_increment(state.num_skipped)
    )
    # A select, not a cond: the workers never part before a collective.
    return updates, jax.tree.map(
      lambda x, y: jnp.where(finite, x, y), new, kept
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _add_up(parts):
  """Add the moments of disjoint groups of leaves up to those of the whole."""
  parts = list(parts)
  return parts[0]._replace(
    sq_norm_of_mean=sum(m.sq_norm_of_mean for m in parts),
    mean_sq_deviation=sum(m.mean_sq_deviation for m in parts),
  )
