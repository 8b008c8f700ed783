"""Average the workers' gradients through two thin matrices, as PowerSGD does.

Each matrix M_i of worker i, [rows, columns], is multiplied by a thin matrix Q,
[columns, rank], which is kept from step to step:

  P ← orthonormal basis of mean_i(M_i Q)     all-reduce of rank·rows numbers
  Q ← mean_i(M_iᵀ P)                         all-reduce of rank·columns numbers
  u = P Qᵀ

This is one step of the power iteration for the mean gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import (
  checks,
  counting,
  draws,
  layout as layouts,
  trees,
)
from gradiv.aggregation._exchange import finite, membership
from gradiv.compression import error_feedback


class AggregateByLowRankState(NamedTuple):
  """State of `aggregate_by_low_rank`.

  Attributes:
    factors: The matrices Q of all leaves that are sent as a product, one after
      the other: [total columns, rank]. If there is no such leaf, one unused
      row, because checkpoints cannot hold empty arrays.
    num_left_out: Number of gradients left out so far because they were not
      finite.
  """

  factors: jax.Array
  num_left_out: jax.Array


def aggregate_by_low_rank(
  rank: int,
  axis_name: workers.AxisName,
  *,
  key: jax.Array,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average the workers' gradients, each matrix approximated at a low rank.

  Use it inside `with_error_feedback` when bandwidth limits the step: a matrix
  costs rank · (rows + columns) numbers instead of rows · columns. A leaf
  [..., columns] is treated as a matrix with that many columns; leaves with
  fewer than two dimensions, or that would not get smaller, are averaged as
  they are.

  The result u = P Qᵀ is biased. Of worker i's matrix M_i, it contains P PᵀM_i,
  whose mean is u; `with_error_feedback` keeps the rest. Other implementations
  keep M_i − u instead, which accumulates the differences between workers.

  Args:
    rank: Rank of the approximation.
    axis_name: Axis, or axes, of the workers.
    key: Random key of the first Q, folded with the leaf; it must be the same
      on all workers.
    layout: Layout of the gradients; `groups` is not supported. With
      `sharded_over`, each shard of a leaf is approximated as a matrix of its
      own, and the state's `factors` differ between the shards of a worker.

  Returns:
    A transformation with an `AggregateByLowRankState`.

  Vogels et al., `PowerSGD <https://arxiv.org/abs/1905.13727>`_, 2019.

  >>> tx = aggregate_by_low_rank(1, 'workers', key=jax.random.key(0))
  >>> grads = jnp.arange(1., 3)[:, None, None] * jnp.ones((2, 3, 4))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> mean = jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(grads)
  >>> bool(jnp.allclose(mean, 1.5))
  True

  The mean of ones and twos has rank 1, so it is exact.
  """
  checks.count('rank', rank, 1)
  checks.key('key', key)
  participants = membership.Participants.of(
    axis_name, layout, unsupported=('groups',))

  def init_fn(params):
    draw = lambda key, x: jax.random.normal(
      key, (_columns(x, rank), rank), jnp.float32)
    factors = jax.tree.leaves(draws.map_leaves(draw, key, params))
    return AggregateByLowRankState(
      _stack(factors, rank), jnp.zeros((), jnp.int32))

  def mean_and_own_part(updates, state):
    own = finite.contribute(updates, participants)
    grads, treedef = jax.tree.flatten(own.or_zeros())
    means, parts, factors, left_out = _iterate(
      own, grads, _split(state.factors, grads, rank), state.factors.dtype)
    shaped = lambda found: treedef.unflatten(_each(
      lambda x, g: x.reshape(g.shape).astype(g.dtype), found, grads))
    new_state = AggregateByLowRankState(
      _stack([q for q in factors if q is not None], rank),
      counting.increment(state.num_left_out, left_out))
    return shaped(means), shaped(parts), new_state

  return optax.GradientTransformationExtraArgs(
    init_fn, error_feedback.AveragingUpdate(mean_and_own_part))


def _iterate(own, grads, factors, dtype):
  """Take one step of the power iteration on all leaves.

  Args:
    own: Contribution of this worker.
    grads: The leaves of its gradient; zeros if it does not take part.
    factors: Q of each leaf, or None if the leaf is averaged as it is.
    dtype: Dtype of the next Q.

  Returns:
    The leaves of the mean, those of this worker's part of it, the next Q, and
    the number of gradients left out.
  """
  matrices = _each(_as_matrix, grads, factors)
  sums, present, left_out = _sum_with_presence(
    own, _each(lambda m, q: m if q is None else _dot(m, q),
               matrices, factors))
  count = jnp.maximum(present.sum(), 1)
  bases = _each(lambda s, q: None if q is None else jnp.linalg.qr(s)[0],
                sums, factors)
  turned = _each(lambda m, p: None if p is None else _dot(m.T, p),
                 matrices, bases)
  factors = _each(
    lambda t: None if t is None else (t / count).astype(dtype),
    _sum(own.participants, turned))
  means = _each(lambda s, p, q: s / count if p is None else _dot(p, q.T),
                sums, bases, factors)
  parts = _each(lambda g, p, t: g if p is None else _dot(p, t.T),
                grads, bases, turned)
  return means, parts, factors, left_out


def _sum_with_presence(own, tree):
  """Sum over the workers, not over their shards, and learn who takes part."""
  if not own.participants.layout.shard_names:
    return finite.sum_with_presence(own, tree)
  _, present, left_out = finite.sum_with_presence(own, ())
  return _sum(own.participants, tree), present, left_out


def _sum(participants, tree):
  return lax.psum(
    workers.as_private(tree, participants.names), participants.names)


def _each(fn, *lists):
  return [fn(*items) for items in zip(*lists)]


def _columns(x, rank):
  """Return the number of columns of a leaf that gets smaller; else 0."""
  if x.ndim < 2 or not x.size:
    return 0
  rows, columns = x.size // x.shape[-1], x.shape[-1]
  return columns if rank * (rows + columns) < x.size else 0


def _stack(factors, rank):
  """Put all Q into one array, of one shape under `optax.tree.map_params`.

  As a tree like the parameters, each would be taken for a parameter.
  """
  factors = [q for q in factors if q.size]
  return jnp.concatenate(factors) if factors else jnp.zeros((1, rank))


def _split(factors, grads, rank):
  """Return the Q of each leaf, or None if the leaf is averaged as it is."""
  found, start = [], 0
  for g in grads:
    columns = _columns(g, rank)
    found.append(factors[start:start + columns] if columns else None)
    start += columns
  return found


def _as_matrix(g, q):
  return trees.widen(g if q is None else g.reshape(-1, g.shape[-1]))


def _dot(x, y):
  return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
