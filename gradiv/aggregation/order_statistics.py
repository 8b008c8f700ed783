"""Order statistics at each coordinate: medians and trimmed means."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import lax

from gradiv import weightings, workers
from gradiv._common import checks
from gradiv.aggregation import _coordinatewise
from gradiv.aggregation._exchange import gram


def aggregate_by_median(
  axis_name: workers.AxisName, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Take the median of the workers at each coordinate.

  Of an even number, the mean of the two in the middle.

  >>> import jax
  >>> tx = aggregate_by_median('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 5.], [2., -9.], [77., 6.]])).tolist()
  [2.0, 5.0]

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  return _coordinatewise.by_coordinate(
    lambda rows, present, key: (_median(rows, present), None),
    axis_name, layout)


def aggregate_by_trimmed_mean(
  num_trimmed: int, axis_name: workers.AxisName, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Average at each coordinate without its b largest and b smallest values.

  Where so many workers are left out that 2b or fewer remain, their median.

  >>> import jax
  >>> tx = aggregate_by_trimmed_mean(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [2.], [4.], [99.]])).tolist()
  [3.0]

  *Yin et al., `Byzantine-Robust Distributed Learning: Towards Optimal
  Statistical Rates <https://arxiv.org/abs/1803.01498>`_, 2018*.

  Args:
    num_trimmed: b, at each end.
    axis_name: The axis, or axes, over which the workers lie.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument; and, while tracing, unless there are more
      than 2b workers.
  """
  checks.count('num_trimmed', num_trimmed, 0)

  def trim(rows, present, key):
    del key
    if len(rows) <= 2 * num_trimmed:
      raise ValueError(f'num_trimmed={num_trimmed}: must be below half of the '
                       f'{len(rows)} workers')
    ordered, count = _sort(rows, present)
    low = jnp.minimum(num_trimmed, (count - 1) // 2)
    places = jnp.arange(len(rows))
    inside = (places >= low) & (places < count - low)
    return _coordinatewise.mean_of(ordered, inside[:, None]), None

  return _coordinatewise.by_coordinate(trim, axis_name, layout)


def aggregate_by_bulyan(
  num_byzantine: int, axis_name: workers.AxisName, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Select n − 2f gradients by Krum, then average around their median.

  Krum picks one after the other; then, at each coordinate, the mean of the
  n − 4f values closest to the median of those picked. Zero where fewer than
  4f + 3 gradients are finite.

  *El Mhamdi et al., `The Hidden Vulnerability of Distributed Learning in
  Byzantium <https://arxiv.org/abs/1802.07927>`_, 2018*.

  >>> import jax
  >>> tx = aggregate_by_bulyan(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [2.], [2.], [2.], [3.], [4.], [99.]])).tolist()
  [2.0]

  Args:
    num_byzantine: f.
    axis_name: The axis, or axes, over which the workers lie.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument; and, while tracing, below 4f + 3 workers.
  """
  checks.count('num_byzantine', num_byzantine, 0)
  least = 4 * num_byzantine + 3

  def select(met):
    n = workers.num_workers(axis_name)
    if n < least:
      raise ValueError(f'num_byzantine={num_byzantine}: {n} workers, must be '
                       f'at least {least}')
    grams, present, left_out = gram.gram_of(met, centred=True)
    distances = weightings.sq_distances(grams[''])
    chosen = _select_by_krum(distances, present, num_byzantine)
    return chosen & (present.sum() >= least), left_out

  def around_median(rows, chosen, key):
    del key
    count = chosen.sum()
    gap = jnp.abs(rows - _median(rows, chosen)[None])
    rank = jnp.argsort(jnp.argsort(
      jnp.where(chosen[:, None], gap, jnp.inf), axis=0), axis=0)
    near = rank < jnp.maximum(count - 2 * num_byzantine, 1)
    return _coordinatewise.mean_of(rows, near & chosen[:, None]), None

  return _coordinatewise.by_coordinate(
    around_median, axis_name, layout, select=select)


def _select_by_krum(sq_distances, present, num_byzantine):
  """Pick m − 2f of the m present, one by one, by their Krum score."""
  wanted = jnp.maximum(present.sum() - 2 * num_byzantine, 1)

  def pick(i, chosen):
    left = present & ~chosen
    neighbours = jnp.maximum(left.sum() - num_byzantine - 2, 1)
    scores = weightings.krum_scores(sq_distances, left, neighbours, 2)
    best = jnp.argmin(jnp.where(left, scores, jnp.inf))
    more = (i < wanted) & (jnp.arange(len(chosen)) == best) & left
    return chosen | more

  return lax.fori_loop(0, len(present), pick, jnp.zeros_like(present))


def _sort(rows, present):
  """Sort each coordinate, with what is absent last; and count the rest."""
  ordered = jnp.sort(jnp.where(present[:, None], rows, jnp.inf), axis=0)
  return jnp.where(jnp.isinf(ordered), 0, ordered), present.sum()


def _median(rows, present):
  ordered, count = _sort(rows, present)
  low, high = jnp.maximum(count - 1, 0) // 2, count // 2
  middle = lambda i: lax.dynamic_index_in_dim(ordered, i, keepdims=False)
  return (middle(low) + middle(high)) / 2
