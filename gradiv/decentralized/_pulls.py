"""The pull (W − I) x of the neighbors on each worker, by collective-permutes.

Everything here is computed from differences x_k − x_i. Rounding is then
proportional to how far apart the workers are, and parameters that agree stay
exactly as they are.

A neighbor with anything that is not finite in what it sent is left out: its
difference is dropped, so that its weight goes to the worker itself. Each worker
sees this in what has arrived, and nothing else is sent. On the complete graph
the mean is that of the workers that are finite, and one number more is summed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import compat, trees
from gradiv.decentralized import _in_shards, _permutes


class Pulled(NamedTuple):
  """What the neighbors do to a worker.

  Attributes:
    pull: (W − I) x, a tree like x, without what was left out.
    num_left_out: Number of neighbors that were left out.
  """

  pull: Any
  num_left_out: jax.Array


def names_of(axis_name: workers.AxisName) -> tuple[str, ...]:
  """Return the one or two axis names; raise ValueError if there are more."""
  names = workers.names_of(axis_name)
  if len(names) > 2:
    raise ValueError(f'axis_name={axis_name!r}: must be at most two names')
  return names


def pull_in_turn(
  bank: np.ndarray, axis_name: workers.AxisName
) -> Callable[[Any, jax.Array], Pulled]:
  """Return a function ``(tree, turn) -> (W_turn − I) tree`` for [t, n, n].

  The turn must be the same on all workers: a collective inside a branch that
  only some of them take would wait forever.
  """
  names_of(axis_name)
  branches = [functools.partial(pull, w, axis_name=axis_name) for w in bank]
  if len(bank) == 1:
    return lambda tree, turn: branches[0](tree)
  return lambda tree, turn: lax.switch(turn % len(bank), branches, tree)


def pull(w: np.ndarray, tree: Any, axis_name: workers.AxisName) -> Pulled:
  """Compute ((W − I) x)_i = Σ_k W_ik (x_k − x_i), for any matrix W.

  The result has at least the precision of float32; messages keep the dtype of
  the leaves. On the complete graph this is one all-reduce, in which case equal
  parameters stay equal only up to rounding.
  """
  names = names_of(axis_name)
  n = workers.num_workers(names)
  if w.shape != (n, n):
    raise ValueError(f'mixing_matrix of shape {w.shape}: must be [{n}, {n}], '
                     f'for {n} workers')
  trees.check_floating(tree, 'tree')
  if np.allclose(w, 1 / n, rtol=0, atol=1e-9):
    means, num_left_out = mean_of_finite(tree, names)
    return Pulled(jax.tree.map(lambda mean, x: mean - x, means, tree),
                  num_left_out)
  if [compat.is_tracked(name) for name in names] == [True, False]:
    raise ValueError(f'axis_name={axis_name!r}: under shard_map('
                     'check_vma=True) both must be axes of the mesh; use '
                     'gradiv.map_workers, or pass check_vma=False')
  sizes = [lax.axis_size(name) for name in names] + [1]
  plan = _permutes.make_plan(
    w.reshape(sizes[0], sizes[1], sizes[0], sizes[1]))

  def pull_all(flat):
    if len(names) == 1:
      totals, num_left_out = _apply(plan, [x[None] for x in flat], names)
      place = 0
    else:
      # The workers of one device: gathering them sends nothing.
      rows = [lax.all_gather(x, names[1]) for x in flat]
      totals, num_left_out = _apply(plan, rows, names)
      place = lax.axis_index(names[1])
    return [total[place] for total in totals], num_left_out[place]

  pulls, num_left_out = _by_dtype(pull_all, tree)
  return Pulled(pulls, workers.as_private(num_left_out, axis_name))


def mean_of_finite(
  tree: Any, axis_name: workers.AxisName
) -> tuple[Any, jax.Array]:
  """Average over the workers that are finite, in at least float32.

  Returns:
    The mean, zero where no worker is finite; and the number of workers that
    were left out. Both are typed as private.
  """
  names = workers.bound_names(axis_name)
  is_finite = _in_shards.all_finite(tree, names)
  held = trees.keep_if(is_finite, trees.widen(tree))
  sums, count = lax.psum((held, is_finite.astype(jnp.float32)), names)
  means = jax.tree.map(
    lambda x: x / jnp.maximum(count, 1).astype(x.dtype), sums)
  num_left_out = workers.num_workers(names) - count.astype(jnp.int32)
  return workers.as_private((means, num_left_out), names)


def _by_dtype(fn, tree):
  """Give `fn` one vector per dtype, so that each hop is one message each.

  Leaves that lie in shards stay apart from those that do not.

  Returns:
    The tree of the first of what it returns, and the second.
  """
  leaves, treedef = jax.tree.flatten(tree)
  if not leaves:
    return tree, jnp.zeros((), jnp.int32)
  places: dict[tuple, list[int]] = {}
  for i, x in enumerate(leaves):
    places.setdefault((x.dtype, compat.varying_axes(x)), []).append(i)
  vectors, rest = fn([jnp.concatenate([leaves[i].ravel() for i in some])
                      for some in places.values()])
  results = {}
  for some, vector in zip(places.values(), vectors):
    ends = np.cumsum([leaves[i].size for i in some])
    for i, part in zip(some, jnp.split(vector, ends[:-1])):
      results[i] = part.reshape(leaves[i].shape)
  return treedef.unflatten(results[i] for i in range(len(leaves))), rest


def _apply(plan, rows, names):
  """Compute the pulls on the workers of this device.

  Args:
    plan: Who sends what to whom.
    rows: One array [local, ...] per dtype.
    names: The axis of the devices, and that of the workers on one, if any.

  Returns:
    The pulls, like `rows`, and how many neighbors were left out [local].
  """
  name = names[0]
  me = lax.axis_index(name)
  wide = [trees.widen(x) for x in rows]
  weigh = _weigh_one if len(rows[0]) == 1 else _weigh_several

  def weighed(weights, arrived):
    """Weigh what has arrived, [m, ...] per dtype, by [devices, local, m]."""
    is_finite = _in_shards.true_in_all(_rows_finite(arrived), names)
    return [weigh(jnp.asarray(weights, x.dtype)[me], is_finite, new, x)
            for new, x in zip(arrived, wide)], is_finite

  def left_out(weights, is_finite):
    has_weight = jnp.asarray(weights != 0)[me]
    return jnp.sum(has_weight & ~is_finite[None], 1, jnp.int32)

  eye = np.eye(plan.own.shape[1])
  totals, is_finite = weighed(plan.own - eye, wide)
  num_left_out = left_out(plan.own * (1 - eye), is_finite)
  for hop in plan.hops:
    sent = jnp.asarray(hop.rows)[me]
    arrived = [trees.widen(lax.ppermute(x[sent], name, hop.pairs))
               for x in rows]
    more, is_finite = weighed(hop.weights, arrived)
    totals = [total + x for total, x in zip(totals, more)]
    num_left_out += left_out(hop.weights, is_finite)
  if np.abs(plan.excess).max() > 1e-6:  # Column-stochastic matrices.
    totals = [total + jnp.asarray(plan.excess, x.dtype)[me][:, None] * x
              for total, x in zip(totals, wide)]
  return totals, num_left_out


def _rows_finite(rows: Sequence[jax.Array]) -> jax.Array:
  """Return which rows of arrays [m, ...] are finite in all of them: [m]."""
  return functools.reduce(
    jnp.logical_and, [jnp.isfinite(x).all(1) for x in rows])


def _weigh_one(weights, is_finite, arrived, rows):
  """Compute w (x' − x), or 0 where x' is not finite or has no weight."""
  weight = weights[0, 0]
  arrived = jnp.where(is_finite[0], arrived, rows)
  return jnp.where(weight == 0, 0, weight * (arrived - rows))


def _weigh_several(weights, is_finite, arrived, rows):
  """Compute Σ_k w_ik (x'_k − x_i) over the finite x'_k.

  A matrix product would lose the small differences to rounding. Its operands
  are therefore taken relative to one row of this device.
  """
  weights = jnp.where(is_finite[None], weights, 0)
  finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
  dot = functools.partial(jnp.tensordot, axes=1,
                          precision=lax.Precision.HIGHEST)
  origin = finite(rows[:1])
  sums = weights.sum(1).reshape(-1, *(1,) * (rows.ndim - 1))
  return dot(weights, finite(arrived) - origin) - sums * (rows - origin)
