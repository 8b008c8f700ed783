"""The pull (W − I) x of the neighbors on each worker, by collective-permutes.

Everything here is computed from differences x_k − x_i. Rounding is then
proportional to how far apart the workers are, and parameters that agree stay
exactly as they are.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import compat, trees
from gradiv.decentralized import _permutes


def names_of(axis_name: workers.AxisName) -> tuple[str, ...]:
  """Return the one or two axis names; raise ValueError if there are more."""
  names = workers.names_of(axis_name)
  if len(names) > 2:
    raise ValueError(f'axis_name={axis_name!r}: must be at most two names')
  return names


def pull_in_turn(
  bank: np.ndarray, axis_name: workers.AxisName
) -> Callable[[Any, jax.Array], Any]:
  """Return a function ``(tree, turn) -> (W_turn − I) tree`` for [t, n, n].

  The turn must be the same on all workers: a collective inside a branch that
  only some of them take would wait forever.
  """
  names_of(axis_name)
  branches = [functools.partial(pull, w, axis_name=axis_name) for w in bank]
  if len(bank) == 1:
    return lambda tree, turn: branches[0](tree)
  return lambda tree, turn: lax.switch(turn % len(bank), branches, tree)


def pull(w: np.ndarray, tree: Any, axis_name: workers.AxisName) -> Any:
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
    return jax.tree.map(
      lambda mean, x: mean - x, mean(tree, names), tree)
  if [compat.is_tracked(name) for name in names] == [True, False]:
    raise ValueError(f'axis_name={axis_name!r}: under shard_map('
                     'check_vma=True) both must be axes of the mesh; use '
                     'gradiv.map_workers, or pass check_vma=False')
  sizes = [lax.axis_size(name) for name in names] + [1]
  plan = _permutes.make_plan(
    w.reshape(sizes[0], sizes[1], sizes[0], sizes[1]))

  def pull_one(x):
    if len(names) == 1:
      return _apply(plan, x[None], names[0])[0]
    # The workers of one device: gathering them sends nothing.
    rows = lax.all_gather(x, names[1])
    return _apply(plan, rows, names[0])[lax.axis_index(names[1])]

  return _map_by_dtype(pull_one, tree)


def mean(tree: Any, axis_name: workers.AxisName) -> Any:
  """Average over all workers, in at least float32, typed as private."""
  means = jax.tree.map(
    lambda x: lax.pmean(trees.widen(x), axis_name), tree)
  return workers.as_private(means, axis_name)


def _map_by_dtype(fn, tree):
  """Apply `fn` to one vector per dtype, so that each hop is one message."""
  leaves, treedef = jax.tree.flatten(tree)
  results = {}
  for dtype in dict.fromkeys(x.dtype for x in leaves):
    places = [i for i, x in enumerate(leaves) if x.dtype == dtype]
    flat = fn(jnp.concatenate([leaves[i].ravel() for i in places]))
    ends = np.cumsum([leaves[i].size for i in places])
    for i, part in zip(places, jnp.split(flat, ends[:-1])):
      results[i] = part.reshape(leaves[i].shape)
  return treedef.unflatten(results[i] for i in range(len(leaves)))


def _apply(plan, rows, name):
  """Compute the pulls on the rows [local, ...] of this device."""
  me = lax.axis_index(name)
  wide = trees.widen(rows)
  at_me = lambda table: jnp.asarray(table, wide.dtype)[me]
  weigh = _weigh_one if len(rows) == 1 else _weigh_several
  total = weigh(at_me(plan.own - np.eye(plan.own.shape[1])), wide, wide)
  for hop in plan.hops:
    arrived = lax.ppermute(rows[jnp.asarray(hop.rows)[me]], name, hop.pairs)
    total += weigh(at_me(hop.weights), trees.widen(arrived), wide)
  excess = plan.excess
  if np.abs(excess).max() > 1e-6:  # Column-stochastic: rows do not sum to 1.
    total += at_me(excess).reshape(-1, *(1,) * (wide.ndim - 1)) * wide
  return total


def _weigh_one(weights, arrived, rows):
  """Compute w (x' − x); without a weight that is 0, even if x' is NaN."""
  weight = weights[0, 0]
  return jnp.where(weight == 0, 0, weight * (arrived - rows))


def _weigh_several(weights, arrived, rows):
  """Compute Σ_k w_ik (x'_k − x_i); NaN only where a bad x'_k has a weight.

  A matrix product would lose the small differences to rounding. Its operands
  are therefore taken relative to one row of this device.
  """
  finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
  dot = functools.partial(jnp.tensordot, axes=1,
                          precision=lax.Precision.HIGHEST)
  origin = finite(rows[:1])
  sums = weights.sum(1).reshape(-1, *(1,) * (rows.ndim - 1))
  total = dot(weights, finite(arrived) - origin) - sums * (rows - origin)
  bad = dot(jnp.abs(weights), 1 - jnp.isfinite(arrived).astype(rows.dtype))
  return jnp.where(bad > 0, jnp.nan, total)
