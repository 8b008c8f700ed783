"""Σ w_i g_i over the examples, for weights that are chosen afterwards.

Without microbatches the factors of the gradients (activations and errors) are
kept, and a weighted sum is the last product of a backward pass with one factor
scaled. With microbatches that would hold the activations of the whole batch;
so the forward and backward pass is run again, one microbatch at a time.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from gradiv import workers
from gradiv.per_example import _arguments, _explicit_axes, _microbatches
from gradiv.per_example._engine import promotion, trace as trace_lib


def of_factors(
  trace: trace_lib.Trace,
  data: trace_lib.Data,
  index: Sequence[int | None],
  shape: tuple[int, ...],
  axis_name: workers.AxisName | None,
) -> jax.tree_util.Partial:
  """Return weights -> Σ w_i g_i, a pytree that may leave `jax.jit`.

  Args:
    trace: The traced loss.
    data: Its values for the batch.
    index: The group of each leaf, or None.
    shape: Shape of the weights: [n] or [groups, n].
    axis_name: Axis of the workers to add up over, or None.
  """
  trace_of_values, trace = trace, trace.without_values()

  @promotion.standard
  def combine(arrays, weights):
    weights = _arguments.as_weights(weights, shape)
    sums = _of_leaves(trace, trace.pack(arrays), weights, index)
    return trace.unflatten(_over_workers(sums, axis_name))

  return jax.tree_util.Partial(combine, trace_of_values.unpack(data))


def of_microbatches(
  trace: trace_lib.Trace,
  batch: Any,
  mask: jax.Array | None,
  index: Sequence[int | None],
  shape: tuple[int, ...],
  axis_name: workers.AxisName | None,
) -> jax.tree_util.Partial:
  """Do as `of_factors`, computing the factors of each microbatch again.

  Args:
    trace: The traced loss, of one microbatch.
    batch: All examples.
    mask: Which of them count, or None for all.
    index: As in `of_factors`.
    shape: As in `of_factors`, for all examples.
    axis_name: As in `of_factors`.
  """
  fixed, trace = trace.fixed, trace.without_values()

  @promotion.standard
  def combine(arrays, weights):
    batch, mask, fixed = arrays
    # The examples in front, as in the batch, to be cut into microbatches.
    weights = jnp.moveaxis(_arguments.as_weights(weights, shape), -1, 0)

    def sums(chunk):
      batch, mask, weights = chunk
      _, _, data = trace.run(batch, mask, effects=False, fixed=fixed)
      return _of_leaves(
        trace, data, jnp.moveaxis(weights, 0, -1), index), (), ()

    total, _, _ = _microbatches.add_up(
      sums, (batch, mask, weights), trace.num_examples)
    total = [x.astype(leaf.dtype) for x, leaf in zip(total, trace.leaves)]
    return trace.unflatten(_over_workers(total, axis_name))

  return jax.tree_util.Partial(combine, (batch, mask, fixed))


def layout(lie: _explicit_axes.Layouts, *, by_factors: bool = True) -> Any:
  """Return how the arrays of a `combine` lie, without the parameters."""
  held = (lie.rows, P(), lie.rows, lie.rows, lie.rows) if by_factors else (
    lie.rows, lie.rows)
  return held, P()


def _of_leaves(trace, data, weights, index):
  return [
    leaf.weighted(data, jnp.where(
      data.mask, weights if k is None else weights[k], 0))
    for k, leaf in zip(index, trace.leaves)]


def _over_workers(sums, axis_name):
  return sums if axis_name is None else lax.psum(sums, axis_name)
