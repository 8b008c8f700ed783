"""Gradients that are not finite: counted by worker, and when to give up.

A rule leaves such gradients out and goes on. If those of all workers are left
out, step after step, nothing is learned: the run then ends with an error that
names a worker and a leaf.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class NonFiniteError(Exception):
  """No worker has had a finite gradient for too many steps in a row."""


class Seen(NamedTuple):
  """What a scan has seen of the lanes L and the workers W.

  Attributes:
    steps: [L, W], in how many of its steps a worker's gradient was not finite.
    in_a_row: [L], how many of its last steps had no finite gradient at all.
    length: Its steps.
  """

  steps: jax.Array
  in_a_row: jax.Array
  length: int


def leaves_finite(grads: Any) -> jax.Array:
  """Return which leaves of a gradient are finite, in their order."""
  return jnp.stack([
    jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.inexact)
    else jnp.array(True) for x in jax.tree.leaves(grads)])


def by_worker(flag: jax.Array, axis: Any, num_workers: int) -> jax.Array:
  """Bring the flags [...] of all workers together: [W, ...] of 0 and 1."""
  places = jnp.arange(num_workers) == lax.axis_index(axis)
  places = places.reshape(-1, *(1,) * flag.ndim)
  return lax.psum((places & flag[None]).astype(jnp.int32), axis)


def over_steps(bad: jax.Array) -> Seen:
  """Sum up [K, L, W] of 0 and 1 over the steps of a scan."""
  length = len(bad)
  is_finite = bad.min(2) == 0
  trailing = jnp.argmax(is_finite[::-1], 0)
  return Seen(bad.sum(0), jnp.where(
    is_finite.any(0), trailing, length), length)


class LeftOut:
  """Counts over the scans of a run.

  Attributes:
    is_too_much: Whether no lane has had a finite gradient for as many steps as
      are allowed.
    step: Of the last scan that was counted.
  """

  def __init__(self, limit: int, meta: dict[str, Any], step: int = 0):
    """Begin, or go on from the `meta` of a checkpoint.

    Args:
      limit: Steps in a row that are too many; 0 where none are.
      meta: {} at the start.
      step: Of the checkpoint.
    """
    self._limit = limit
    self._steps = np.asarray(meta.get('steps', 0))
    self._in_a_row = np.asarray(meta.get('in_a_row', 0))
    self.step = step

  def add(self, step: int, seen: Seen | None) -> None:
    """Count what a scan has seen that ended at `step`."""
    self.step = step
    if seen is None:
      return
    seen = jax.device_get(seen)
    same = self._steps.shape == seen.steps.shape
    self._steps = seen.steps + (self._steps if same else 0)
    self._in_a_row = np.where(
      seen.in_a_row == seen.length, self._in_a_row + seen.length,
      seen.in_a_row)

  @property
  def is_too_much(self) -> bool:
    """Whether no lane has learned for as many steps as are allowed."""
    return bool(self._limit and self._in_a_row.min() >= self._limit)

  @property
  def columns(self) -> dict[str, np.ndarray]:
    """What to record: {'num_left_out': [L, W]} once there is anything."""
    return {'num_left_out': self._steps} if self._steps.any() else {}

  @property
  def meta(self) -> dict[str, Any]:
    """What a checkpoint must hold."""
    if not self._steps.any():
      return {}
    return {'left_out': {'steps': self._steps.tolist(),
                         'in_a_row': self._in_a_row.tolist()}}

  def sentence(self) -> str:
    """Say which workers were left out; empty where none was."""
    totals = self._steps.sum(0) if self._steps.ndim else np.zeros(0)
    bad = np.flatnonzero(totals)
    if not len(bad):
      return ''
    lanes = len(self._steps)
    of = f'{self.step} steps' + (f' of {lanes} lanes' if lanes > 1 else '')
    return ('gradients that are not finite, in ' + of + ': ' + ', '.join(
      f'{totals[i]} of worker {i}' for i in bad))

  def error(self, title: str, paths: Sequence[str] = (),
            bad: np.ndarray | None = None) -> NonFiniteError:
    """Say where it ended, and name the first worker and its leaves.

    Args:
      title: Of the run.
      paths: Of the leaves.
      bad: [W, leaves] of 0 and 1: what is not finite in a step of this state;
        None where that is not known.
    """
    where = '' if bad is None else _first(paths, bad)
    return NonFiniteError(
      f'{title}: at step {self.step} no worker has had a finite gradient for '
      f'{self._in_a_row.min()} steps in a row, and max_nonfinite='
      f'{self._limit}{where}; all is saved')


def _first(paths, bad):
  """Name the first bad worker, and the first of its bad leaves."""
  workers = np.flatnonzero(bad.any(1))
  if not len(workers):
    return ''
  names = [paths[i] for i in np.flatnonzero(bad[workers[0]])]
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return (f': worker {workers[0]} (of {len(workers)} such workers) has one '
          f'that is not in {", ".join(names[:3])}{more}')

