"""Models of staleness: constant, per worker, per leaf, drawn, or recorded.

A model knows the largest possible staleness, which sizes the buffers of
`delay_updates`, and the staleness of the present step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import checks, draws

SCHEDULES = ('pipedream', 'pipedream_2bw')


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A staleness that is drawn at random in each step.

  Attributes:
    probabilities: Probabilities of a staleness of 0, 1, 2, … steps; their sum
      is 1.
  """

  probabilities: Sequence[float]

  def __post_init__(self):
    chances = np.asarray(self.probabilities, float)
    if chances.ndim != 1 or not chances.size or not (
        (chances >= 0).all() and abs(chances.sum() - 1) < 1e-6):
      raise ValueError(f'probabilities={self.probabilities!r}: must be '
                       'nonnegative numbers with a sum of 1')


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
  """A staleness that is read from a record, which repeats after its end.

  Attributes:
    trace: [T] if common to all workers, or [T, n] with one column per worker,
      for example `Trace.staleness`. Step t reads row t mod T.
  """

  trace: np.ndarray

  def __post_init__(self):
    trace = np.asarray(self.trace)
    if trace.ndim not in (1, 2) or not trace.size or not np.issubdtype(
        trace.dtype, np.integer) or trace.min() < 0:
      raise ValueError(
        f'trace of shape {trace.shape} and dtype {trace.dtype}: must be [T] '
        'or [T, n], of nonnegative integers')
    object.__setattr__(self, 'trace', trace)


Staleness = int | Sequence[int] | Callable[[tuple], int] | Drawn | Recorded


def pipeline_staleness(
  stage_of: Callable[[tuple], int],
  num_stages: int,
  *,
  schedule: str = 'pipedream',
) -> Callable[[tuple], int]:
  """Return the staleness that pipeline parallelism gives to each leaf.

  Pass the result to `delay_updates` to simulate a pipeline of P stages:

    pipedream      P − 1 − s for stage s; the last stage has none
    pipedream_2bw  1 for every stage

  >>> import gradiv
  >>> by_stage = pipeline_staleness(lambda path: path[0].idx, 3)
  >>> state = gradiv.delay_updates(by_stage).init([jnp.zeros(1)] * 3)
  >>> [int(steps) for steps in state.staleness]  # from input to output
  [2, 1, 0]

  *Narayanan et al., `PipeDream <https://arxiv.org/abs/1806.03377>`_, 2018, and
  `Memory-Efficient Pipeline-Parallel DNN Training
  <https://arxiv.org/abs/2006.09503>`_, 2020*.

  Args:
    stage_of: Function from a leaf's path to its stage, from 0 (the input) to
      P − 1.
    num_stages: P.
    schedule: 'pipedream' or 'pipedream_2bw'.
  """
  checks.count('num_stages', num_stages, 1)
  checks.choice('schedule', schedule, SCHEDULES)

  def staleness(path):
    stage = stage_of(path)
    if stage not in range(num_stages):
      raise ValueError(f'stage_of{jax.tree_util.keystr(path)}={stage!r}: must '
                       f'be from 0 to {num_stages - 1}')
    return num_stages - 1 - stage if schedule == 'pipedream' else 1

  return staleness


@dataclasses.dataclass(frozen=True)
class Model:
  """A model of staleness, as `delay_updates` uses it.

  Attributes:
    most: Function from a leaf's path to its largest staleness.
    at_start: Function from a leaf's path to the staleness that the state shows
      before the first step.
    now: Function from the state to this worker's present staleness; None if
      the staleness is constant.
    is_by_leaf: Whether leaves differ.
  """

  most: Callable[[tuple], int]
  at_start: Callable[[tuple], int]
  now: Callable[[Any], jax.Array] | None = None
  is_by_leaf: bool = False


def check(staleness: Staleness, axis_name, key) -> Model:
  """Return the model of a staleness argument, or raise ValueError."""
  names = None if axis_name is None else workers.names_of(axis_name)
  if key is not None:
    checks.key('key', key)
  if (key is None) == isinstance(staleness, Drawn):
    raise ValueError(f'key={key!r}: must be given with a Drawn staleness, '
                     f'and only then; staleness is {staleness!r}')
  if isinstance(staleness, Drawn):
    return _drawn(staleness, names)
  if isinstance(staleness, Recorded):
    return _listed('trace', staleness.trace, names)
  if callable(staleness):
    return _by_leaf(staleness)
  if np.ndim(staleness):
    return _by_worker(staleness, names)
  return _constant(staleness)


def _constant(staleness):
  checks.count('staleness', staleness, 0)
  same = lambda path: int(staleness)
  return Model(same, same)


def _by_leaf(staleness):
  def at(path):
    steps = staleness(path)
    checks.count(f'staleness{jax.tree_util.keystr(path)}', steps, 0)
    return int(steps)

  return Model(at, at, is_by_leaf=True)


def _by_worker(staleness, names):
  if not len(staleness):
    raise ValueError(
      f'staleness={staleness!r}: must have one entry per worker')
  for steps in staleness:
    checks.count('staleness', steps, 0)
  return _listed('staleness', np.asarray(staleness)[None], names)


def _drawn(staleness, names):
  chances = np.asarray(staleness.probabilities, float)

  def now(state):
    key = draws.key_of(state, 'delay_updates')
    key = key if names is None else workers.worker_key(key, names)
    below = jax.random.uniform(key) >= jnp.asarray(chances.cumsum()[:-1])
    return jnp.sum(below, dtype=jnp.int32)

  return Model(lambda path: len(chances) - 1, lambda path: 0, now)


def _listed(name, trace, names):
  if trace.ndim == 2 and names is None:
    raise ValueError(f'axis_name=None: must be given with a {name} per worker')

  def now(state):
    row = jnp.asarray(trace, jnp.int32)[state.count % len(trace)]
    if trace.ndim == 1:
      return row
    n = workers.num_workers(names)
    if trace.shape[1] != n:
      raise ValueError(
        f'{name} of {trace.shape[1]} workers: must be of {n}, as the axis '
        'has')
    return row[lax.axis_index(names)]

  return Model(lambda path: int(trace.max()), lambda path: 0, now)
