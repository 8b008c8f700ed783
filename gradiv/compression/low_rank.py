"""Average the workers' gradients through two thin matrices, as PowerSGD does.

Each matrix M_i of worker i, [rows, columns], is multiplied by a thin matrix Q,
[columns, rank], which is kept from step to step:

  P ← orthonormal basis of mean_i(M_i Q)     all-reduce of rank·rows numbers
  Q ← mean_i(M_iᵀ P)                         all-reduce of rank·columns numbers
  u = P Qᵀ

This is one step of the power iteration for the mean gradient.
"""

import dataclasses
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
  early_sums,
  layout as layouts,
  stateful,
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
      `mean_over`, thin matrices are all that its members send, too. With
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
    stateful.check_kind(state, AggregateByLowRankState)
    own = finite.contribute(updates, participants)
    grads, treedef = jax.tree.flatten(updates)
    means, parts, factors, left_out = _average(
      own, _split(state.factors, grads, rank), state.factors.dtype)
    shaped = lambda found: treedef.unflatten(_each(
      lambda x, g: x.reshape(g.shape).astype(g.dtype), found, grads))
    new_state = AggregateByLowRankState(
      _stack(factors, rank), counting.increment(state.num_left_out, left_out))
    return shaped(means), shaped(parts), new_state

  return optax.GradientTransformationExtraArgs(
    init_fn, error_feedback.AveragingUpdate(mean_and_own_part))


class _Thin(NamedTuple):
  """What the workers learn of each leaf from sums of thin matrices.

  Attributes:
    bases: P; None if the leaf is averaged as it is.
    own: M_iᵀ P of this worker, or its leaf.
    means: The mean of these over the workers.
  """

  bases: list
  own: list
  means: list


def _average(own, factors, dtype):
  """Take one step of the power iteration on all leaves.

  Args:
    own: Contribution of this worker.
    factors: Q of each leaf, or None if the leaf is averaged as it is.
    dtype: Dtype of the next Q.

  Returns:
    The leaves of the mean, those of this worker's part of it, the next Q, and
    the number of gradients left out.
  """
  _, present, left_out = finite.sum_with_presence(own, ())
  if own.participants.are_devices:
    # Leaf by leaf, as they arrive; again if a gradient has to be left out.
    thin = _iterate(own, own.participants.count, factors)
    thin = lax.cond(
      left_out == 0, lambda thin: thin,
      lambda thin: _iterate_again(own, present, factors), thin)
  else:
    thin = _iterate_finite(own, present, factors)
  round_factor = lambda p, t: t if p is None else t.astype(dtype)
  product = lambda p, t: t if p is None else _dot(p, t.T)
  means = _each(round_factor, thin.bases, thin.means)
  return (_each(product, thin.bases, means),
          _each(product, thin.bases, thin.own),
          [q for p, q in zip(thin.bases, means) if p is not None], left_out)


def _iterate_again(own, present, factors):
  with jax.named_scope(early_sums.AGAIN):
    return _iterate_finite(own, present, factors)


def _iterate_finite(own, present, factors):
  """Do as `_iterate`, with the gradients that take part alone."""
  if own.participants.layout.mean_names:
    own = own.without_the_others()
  own = dataclasses.replace(own, grads=own.or_zeros())
  return _iterate(own, jnp.maximum(present.sum(), 1), factors)


def _iterate(own, count, factors):
  """Sum products with thin matrices over the workers, of whom `count` count.

  With `Layout.mean_over` as well: a product with the mean of a group is the
  mean of the products, so that whole gradients never travel.
  """
  names, members = own.participants.names, own.participants.layout.mean_names
  matrices = _each(lambda g, q: _as_matrix(g, q) / own.num_members,
                   jax.tree.leaves(own.grads), factors)
  bases = _each(
    lambda m, q: None if q is None else jnp.linalg.qr(
      _sum(_dot(m, q), (*names, *members)))[0], matrices, factors)
  turned = _each(lambda m, p: m if p is None else _dot(m.T, p),
                 matrices, bases)
  own_parts = [_sum(t, members) if members else t for t in turned]
  return _Thin(bases, own_parts, [_sum(t, names) / count for t in own_parts])


def _sum(x, names):
  return lax.psum(workers.as_private(x, names), names)


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
