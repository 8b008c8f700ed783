"""The mean of the workers through two thin matrices, as PowerSGD has it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, draws, layout as layouts, trees
from gradiv.aggregation._exchange import finite, membership
from gradiv.compression import error_feedback


class AggregateByLowRankState(NamedTuple):
  """State of `aggregate_by_low_rank`.

  Attributes:
    factors: Q [columns, rank] of each leaf that is sent as a product; of the
      others [0, 0].
    num_left_out: Gradients left out so far, as they were not finite.
  """

  factors: optax.Updates
  num_left_out: jax.Array


def aggregate_by_low_rank(
  rank: int, axis_name: workers.AxisName, *, key: jax.Array,
  layout: layouts.Layout | None = None,
) -> error_feedback.WireCompressor:
  """Average the workers' gradients, each matrix to a low rank: u = P Qᵀ.

  With M_i of worker i, [rows, columns], and the Q of the last step: P is the
  mean of M_i Q, made orthonormal, and Q ← the mean of M_iᵀP. That is a step of
  the power iteration for the mean, at the price of two all-reduces of
  rank·rows and rank·columns. A leaf [..., columns] is a matrix; what has no
  two dimensions, or would not get smaller, is averaged as it is.

  Biased: it belongs into `with_error_feedback`. Of worker i's M_i, P PᵀM_i has
  been sent then, whose mean is the update, and the rest is kept: not M_i less
  the update, as in other implementations, which adds up how workers differ.

  >>> tx = aggregate_by_low_rank(1, 'workers', key=jax.random.key(0))
  >>> grads = jnp.arange(1., 3)[:, None, None] * jnp.ones((2, 3, 4))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> mean = jax.vmap(step, axis_name='workers', out_axes=None)(grads)
  >>> bool(jnp.allclose(mean, 1.5))
  True

  Vogels et al., `PowerSGD <https://arxiv.org/abs/1905.13727>`_, 2019.

  Args:
    rank: Of the products.
    axis_name: The axis, or axes, over which the workers lie.
    key: Of the first Q, the same on each worker; folded by the leaf.
    layout: Layout of the gradients; `mean_over` alone is supported.

  Raises:
    ValueError: On a bad argument, and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  checks.count('rank', rank, 1)
  participants = membership.Participants.of(
    axis_name, layout, unsupported=('groups', 'sharded_over'))

  def columns_of(x):
    """Count the columns of a leaf that gets smaller; 0 for the others."""
    if x.ndim < 2 or not x.size:
      return 0
    rows, columns = x.size // x.shape[-1], x.shape[-1]
    return columns if rank * (rows + columns) < x.size else 0

  def init_fn(params):
    def factor(key, x):
      columns = columns_of(x)
      return jax.random.normal(
        key, (columns, rank if columns else 0), jnp.float32)

    return AggregateByLowRankState(
      draws.map_leaves(factor, key, params), jnp.zeros((), jnp.int32))

  def update_and_share(updates, state, params=None, **extra_args):
    del params, extra_args
    own = finite.exclude_non_finite(updates, participants)
    grads, treedef = jax.tree.flatten(own.grads)
    factors = treedef.flatten_up_to(state.factors)
    matrices = [trees.widen(g.reshape(-1, g.shape[-1]) if q.size else g)
                for g, q in zip(grads, factors)]
    sent = [_dot(m, q) if q.size else m for m, q in zip(matrices, factors)]
    sums, present, left_out = finite.sum_with_presence(own, sent)
    count = jnp.maximum(present.sum(), 1)
    bases = [jnp.linalg.qr(s)[0] if q.size else None
             for s, q in zip(sums, factors)]
    back = [_dot(m.T, p) if q.size else q
            for m, p, q in zip(matrices, bases, factors)]
    turned = participants.sum(
      [t for t, q in zip(back, factors) if q.size])
    new, results, shares = [], [], []
    for g, q, s, p, t in zip(grads, factors, sums, bases, back):
      mean, share = s / count, g
      if q.size:
        q = (turned.pop(0) / count).astype(q.dtype)
        mean = _dot(p, q.T).reshape(g.shape)
        share = _dot(p, t.T).reshape(g.shape)
      new.append(q)
      results.append(mean.astype(g.dtype))
      shares.append(share.astype(g.dtype))
    new = AggregateByLowRankState(
      treedef.unflatten(new), state.num_left_out + left_out)
    return treedef.unflatten(results), treedef.unflatten(shares), new

  return error_feedback.WireCompressor(init_fn, update_and_share)


def _dot(x, y):
  return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
