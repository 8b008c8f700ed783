"""The mean of the workers over a wire of 8 or 4 bits a number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, draws, layout as layouts, trees
from gradiv.aggregation._exchange import (
  buckets,
  finite,
  membership,
  slices,
)
from gradiv.compression import _packing
from gradiv.diversity import moments


class AggregateByQuantizedMeanState(NamedTuple):
  """State of `aggregate_by_quantized_mean`.

  Attributes:
    count: Steps so far.
    rng_key: The key.
    num_left_out: Gradients left out so far, as they were not finite.
    moments: Of the last step's gradients, as they were before rounding.
  """

  count: jax.Array
  rng_key: jax.Array
  num_left_out: jax.Array
  moments: moments.Moments


def aggregate_by_quantized_mean(
  num_bits: int,
  axis_name: workers.AxisName,
  *,
  key: jax.Array,
  block_size: int = 256,
  batch_size: float = 1,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average the workers' gradients with 8 or 4 bits a number on the wire.

  E u = ḡ. Slices of each gradient are rounded at random and dealt out by an
  all-to-all; each worker adds up its slice in float32, rounds the sum, and an
  all-gather brings the sums together. Of the bytes of a float32 all-reduce
  that is 1/4 + 1/block_size, or 1/8 + 1/block_size, and a little padding.

  The `Moments` in the state are not those of rounded gradients, whose norms
  are too large: the mean of ‖g_i‖² is exact, of norms that travel beside the
  payload, and ‖ḡ‖² is without bias, of products of different workers. NaN,
  for unavailable, where a gradient is not finite.

  >>> tx = aggregate_by_quantized_mean(8, 'workers', key=jax.random.key(0))
  >>> grads = jnp.array([[1., -2.], [3., 6.]])
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> mean = jax.vmap(step, axis_name='workers', out_axes=None)(grads)
  >>> bool(jnp.allclose(mean, jnp.array([2., 2.]), atol=0.1))
  True

  The layout is that of ZeRO++, Wang et al., `ZeRO++
  <https://arxiv.org/abs/2306.10209>`_, 2023, here without bias; the rounding
  that of Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017.

  Args:
    num_bits: 8 or 4.
    axis_name: The axis, or axes, over which the workers lie. One worker alone
      sends nothing, and rounds nothing.
    key: Folded by the step, the worker and the part of the tree.
    block_size: How many numbers share a scale, at most; even.
    batch_size: Examples behind one worker's gradient, for `Moments`.
    layout: Layout of the gradients; `groups` is not supported.

  Raises:
    ValueError: On a bad argument, and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  if not isinstance(num_bits, int) or num_bits not in _packing.LARGEST:
    raise ValueError(f'num_bits={num_bits!r}: must be 8 or 4')
  checks.count('block_size', block_size, 2)
  if block_size % 2:
    raise ValueError(f'block_size={block_size!r}: must be even')
  checks.positive('batch_size', batch_size)
  participants = membership.Participants.of(
    axis_name, layout, unsupported=('groups',))
  names = participants.names

  def init_fn(params):
    del params
    nothing = jnp.float32(jnp.nan)
    return AggregateByQuantizedMeanState(
      *draws.init(key), jnp.zeros((), jnp.int32),
      moments.Moments(nothing, jnp.float32(batch_size), nothing, nothing))

  def exchange(grads, step_key):
    """Sum over the workers: rounded, dealt, added up, rounded, gathered."""
    leaves, parts = jax.tree.leaves(grads), []
    across = jnp.float32(0)
    plan = buckets.plan(grads, participants)
    for i, bucket in enumerate(plan.buckets):
      key = draws.shard_key(
        jax.random.fold_in(step_key, i),
        participants.layout.shard_names if bucket.is_sharded else ())
      to, back = jax.random.split(key)
      own = buckets.pack(
        leaves, bucket, participants.count).astype(jnp.float32)
      width = own.shape[1]
      size = _packing.even_blocks(width, block_size)
      payload = _packing.encode(
        workers.worker_key(to, names), own, num_bits, size)
      payload = lax.all_to_all(payload, names, 0, 0, tiled=True)
      rows = _packing.decode(payload, width, num_bits, size)
      total = rows.sum(0)
      products = trees.sq_norm(total) - trees.sq_norm(rows)
      across += participants.count_once(products, bucket.is_sharded)
      payload = _packing.encode(
        workers.worker_key(back, names), total[None], num_bits, size)
      payload = slices.all_gather_vector(payload[0], names)
      payload = payload.reshape(participants.count, -1)
      parts.append(_packing.decode(payload, width, num_bits, size).ravel())
    return buckets.unpack(plan, parts), across

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    own = finite.exclude_non_finite(updates, participants)
    n = participants.count
    drawn = draws.DrawState(state.count, state.rng_key)
    if n > 1:
      total, across = exchange(
        own.grads, draws.key_of(drawn, 'aggregate_by_quantized_mean'))
    else:
      total, across = lax.psum(own.grads, names), jnp.float32(0)
    squares = finite.sq_norm_of_shard(own.grads, participants).astype(
      jnp.float32)
    # One all-reduce of n + 3 numbers.
    (squares, across), present, left_out = finite.sum_with_presence(
      own, (squares, across))
    count = jnp.maximum(present.sum(), 1)
    mean = jax.tree.map(
      lambda t, g: (t / count).astype(g.dtype), total, own.grads)
    # Σ_i ‖g_i‖² as it is, Σ_{i≠j} ⟨g_i, g_j⟩ of what was rounded apart.
    unknown = jnp.where(left_out > 0, jnp.nan, 0)
    of_mean = (squares + across) / n**2 + unknown
    seen = moments.Moments(
      jnp.float32(n), jnp.float32(batch_size), of_mean,
      squares / n - of_mean)
    return mean, AggregateByQuantizedMeanState(
      *draws.next_step(drawn), state.num_left_out + left_out, seen)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
