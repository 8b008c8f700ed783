"""Pieces that the mixing transformations share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import trees
from gradiv.decentralized import _in_shards, _pulls, topology


def check_given(params: Any, updates: Any) -> None:
  """Raise ValueError if `update` lacks parameters, or if they are integers."""
  if params is None:
    raise ValueError('params=None: must be passed to update, which mixes them')
  trees.check_floating(params, 'params', or_complex=True)
  trees.check_floating(updates, 'update', or_complex=True)


def constant_matrix(mixing_matrix: np.ndarray) -> np.ndarray:
  """Return a checked mixing matrix that stays the same at every step."""
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  if len(bank) != 1:
    raise ValueError(f'mixing_matrix of shape {bank.shape}: must be [n, n], '
                     'the same at each step')
  return bank[0]


def add(x: Any, *rest: Any) -> Any:
  """Add trees, in the dtypes of the first."""
  return jax.tree.map(lambda x, *rest: sum(rest, x).astype(x.dtype), x, *rest)


def add_finite(
  axis_name: workers.AxisName, before: tuple[Any, ...], updates: Any,
  after: tuple[Any, ...] = (),
) -> tuple[Any, jax.Array]:
  """Add trees and a worker's update, unless that is not finite.

  Args:
    axis_name: The axis of the workers.
    before: Trees to begin the sum with; the first has its dtypes.
    updates: The update.
    after: Trees to end it with.

  Returns:
    The sum, and how many updates were left out: 0 or 1.
  """
  is_finite = _in_shards.all_finite(updates, axis_name)
  total = trees.select(is_finite, add(*before, updates, *after),
                       add(*before, *after))
  return total, 1 - is_finite.astype(jnp.int32)


def step_and_pull(
  axis_name: workers.AxisName, params: Any, updates: Any,
  pull: Callable[[Any], _pulls.Pulled],
) -> tuple[Any, jax.Array]:
  """Return the update that leads from x to W (x + u), in the dtypes of x.

  And how much was left out: what is not finite of updates and of neighbors.
  """
  stepped, without = add_finite(axis_name, (params,), updates)
  pulled = pull(stepped)
  moved = jax.tree.map(
    lambda x, s, d: ((s - x) + d).astype(x.dtype), params, stepped,
    pulled.pull)
  return moved, without + pulled.num_left_out


def rescale(
  tree: optax.Updates, schedule: optax.Schedule | None, count: jax.Array
) -> optax.Updates:
  """Convert a tree from units of the last learning rate to the present one.

  Rates that differ by rounding alone count as equal, because the rounding of
  many ratios near 1 would accumulate.
  """
  if schedule is None:
    return tree
  now = jnp.asarray(schedule(count))
  last = jnp.asarray(schedule(jnp.maximum(count - 1, 0)))
  same = jnp.abs(now - last) <= 4 * jnp.finfo(jnp.float32).eps * jnp.abs(last)
  ratio = jnp.where(same | (last == 0), 1.0, now / last)
  return jax.tree.map(lambda x: (ratio * x).astype(x.dtype), tree)
