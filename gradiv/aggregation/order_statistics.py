"""Order statistics at each coordinate: medians and trimmed means."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import weightings, workers
from gradiv._common import checks, layout as layouts
from gradiv.aggregation import _sorting, coordinatewise
from gradiv.aggregation._exchange import products


def aggregate_by_median(
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Compute the median of the workers at each coordinate.

  Use it if a minority of the workers may send anything at all. With an even
  number of workers, the median is the mean of the two values in the middle.

  Args:
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_median('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 5.], [2., -9.], [77., 6.]])).tolist()
  [2.0, 5.0]
  """
  return coordinatewise.by_coordinate(
    lambda rows, present, key: (_median(rows, present), None),
    axis_name, layout)


def aggregate_by_trimmed_mean(
  num_trimmed: int,
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average each coordinate without its b largest and b smallest values.

  Use it if up to b workers may send anything at all; it averages more of the
  others than the median does. If workers are left out and at most 2b
  remain, it is their median.

  *Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal
  Statistical Rates <https://arxiv.org/abs/1803.01498>`_, 2018*.

  Args:
    num_trimmed: b, the number of values to drop at each end; below half of the
      workers.
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_trimmed_mean(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1.], [2.], [4.], [99.]])).tolist()  # of 2 and 4
  [3.0]
  """
  checks.count('num_trimmed', num_trimmed, 0)

  def trim(rows, present, key):
    del key
    if len(rows) <= 2 * num_trimmed:
      raise ValueError(f'num_trimmed={num_trimmed}: must be below half of the '
                       f'{len(rows)} workers')
    count, places = present.sum(), jnp.arange(len(rows))
    low = jnp.clip((count - 1) // 2, 0, num_trimmed)
    inside = (places >= low) & (places < count - low)
    total = _sorting.weighted_sum_of_sorted(
      rows, present, inside.astype(rows.dtype))
    return total / jnp.maximum(inside.sum(), 1), None

  return coordinatewise.by_coordinate(trim, axis_name, layout)


def aggregate_by_bulyan(
  num_byzantine: int,
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Select n − 2f gradients by Krum, then average around their median.

  Use it if up to f workers may attack single coordinates, which a rule that
  selects whole gradients cannot see. Krum selects one gradient after the
  other; then each coordinate is the mean of the n − 4f selected values closest
  to their median. The update is zero if fewer than 4f + 3 gradients are
  finite.

  *El Mhamdi et al., `The Hidden Vulnerability of Distributed Learning in
  Byzantium <https://arxiv.org/abs/1802.07927>`_, 2018*.

  Args:
    num_byzantine: f; takes at least 4f + 3 workers.
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_bulyan(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1.], [2.], [2.], [2.], [3.], [4.], [99.]])).tolist()
  [2.0]
  """
  checks.count('num_byzantine', num_byzantine, 0)
  return coordinatewise.by_coordinate(
    functools.partial(_average_around_median, num_byzantine),
    axis_name, layout, select=functools.partial(_select, num_byzantine))


def _select(num_byzantine, slices):
  """Return the workers that Krum selects, and the number left out."""
  n, least = slices.contribution.participants.count, 4 * num_byzantine + 3
  if n < least:
    raise ValueError(f'num_byzantine={num_byzantine}: {n} workers, must be '
                     f'at least {least}')
  (gram,), present, num_left_out = products.gram_matrices(
    slices.keep_finite(), centered=True)
  chosen = _select_by_krum(
    weightings.sq_distances(gram), present, num_byzantine)
  return chosen & (present.sum() >= least), num_left_out


def _average_around_median(num_byzantine, rows, chosen, key):
  """Average the values of the chosen rows that are closest to their median."""
  del key
  count = chosen.sum()
  gap = jnp.abs(rows - _median(rows, chosen)[None])
  rank = jnp.argsort(jnp.argsort(
    jnp.where(chosen[:, None], gap, jnp.inf), axis=0), axis=0)
  near = rank < jnp.maximum(count - 2 * num_byzantine, 1)
  return coordinatewise.mean_of(rows, near & chosen[:, None]), None


def _select_by_krum(sq_distances, present, num_byzantine):
  """Select m − 2f of the m present, one by one, by their Krum score."""
  wanted = jnp.maximum(present.sum() - 2 * num_byzantine, 1)

  def pick(i, chosen):
    left = present & ~chosen
    num_neighbors = jnp.maximum(left.sum() - num_byzantine - 2, 1)
    scores = weightings.krum_scores(sq_distances, left, num_neighbors, 2)
    best = jnp.argmin(jnp.where(left, scores, jnp.inf))
    more = (i < wanted) & (jnp.arange(len(chosen)) == best) & left
    return chosen | more

  return lax.fori_loop(0, len(present), pick, jnp.zeros_like(present))


def _median(rows: jax.Array, present: jax.Array) -> jax.Array:
  count, places = present.sum(), jnp.arange(len(rows))
  low, high = jnp.maximum(count - 1, 0) // 2, count // 2
  weights = ((places == low).astype(rows.dtype) + (places == high)) / 2
  return _sorting.weighted_sum_of_sorted(
    rows, present, jnp.where(places < count, weights, 0))
