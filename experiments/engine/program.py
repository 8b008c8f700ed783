"""What a training is made of, as pure functions."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine import advising
from experiments.engine.control import Control

Lane = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
  """What the lanes of a run do, as pure functions.

  Large arrays belong into `data`: what a function closes over becomes a
  constant of the compiled program. An optimizer that needs the data gets them
  as `update(..., data=data)`, as optax passes extra arguments.

  Attributes:
    lanes: Hyperparameters [L, ...] of each lane; 'seed' and 'order' among
      them, the row of `fetch` whose batches the lane takes.
    data: Arrays common to all lanes, on the device.
    init: lane -> params.
    make_optimizer: lane -> optax transformation, under `axis_name`. Its update
      gets `data` and `value`, the loss, as extra arguments.
    fetch: steps [K] -> what a batch is made of on the host: a tree of arrays
      [orders, K, batch size, ...], of indices or of examples. Called in a
      thread, one scan ahead.
    gather: A tree of what `fetch` returns, in any shape -> what is sent to the
      devices in its place, such as the examples of these indices. Each of
      several processes gathers for its own workers alone.
    batch: (data, lane, rows [b, ...]) -> a worker's batch.
    loss: (params, batch, key) -> the mean loss over the batch, or that and a
      dict of scalars to record.
    evaluate: (data, lane, params) -> dict of scalars.
    read: opt_state -> dict of scalars to record.
    tracker: opt_state -> the state of `gradiv.track_moments` that the advice at
      the end of the run is from. By default the first; None: no advice.
    compare: params of all lanes -> dict of arrays to record.
    gradient: (lane, params, batch, key) -> (loss, gradient), where it is not
      that of `loss`; here the lane holds the 'step', too, which is common to
      all lanes. The optimizer takes whatever stands for the gradient.
    private: Which of 'params', 'opt_state' and 'model_state' each worker has
      its own of, with a leading axis of workers. `read` sees that of the first
      worker, `evaluate` and `compare` the mean of the others.
    model_state: (lane, params) -> a tree that the loss changes, such as the
      averages of batch normalization. The loss is then (params, model_state,
      batch, key) -> (loss, dict), where the dict holds the new 'model_state'
      beside what to record, and evaluate is (data, lane, params, model_state)
      -> dict. Workers average theirs in each step.
    view: (params, opt_state) -> the params to evaluate, such as their average.
    accumulate: Micro-batches that a worker's batch is split into, one after
      the other, to save memory.
    compute_dtype: What the loss gets for the float arrays of params and batch,
      such as bfloat16. Params, gradients and optimizer stay as they are.
    control: What chooses the batch size of the only lane, and its rate. `fetch`
      then returns the smallest batches, and each step is one of them.
    counts_left_out: Count, by worker, the steps in which a gradient is not
      finite; see `left_out`.
    is_single: There is one lane, and no axis of lanes in the records and in
      what `train` returns; nothing is vmapped over lanes.
    cache: A dict, at first empty, that keeps what is compiled for further
      programs, which must differ in lanes, data and `fetch` alone.
  """

  lanes: Lane
  data: Any
  init: Callable
  make_optimizer: Callable
  fetch: Callable
  batch: Callable
  loss: Callable
  evaluate: Callable
  gather: Callable = lambda rows: rows
  read: Callable = lambda opt_state: {}
  tracker: Callable = advising.first_tracker
  compare: Callable = lambda params: {}
  gradient: Callable | None = None
  private: tuple[str, ...] = ()
  model_state: Callable | None = None
  view: Callable = lambda params, opt_state: params
  accumulate: int = 1
  compute_dtype: Any = None
  control: Control | None = None
  counts_left_out: bool = False
  is_single: bool = False
  cache: dict | None = None

  def __post_init__(self):
    if self.accumulate < 1:
      raise ValueError(f'accumulate={self.accumulate}: must be at least 1')
    changed = self.accumulate > 1 or self.compute_dtype or self.model_state
    if self.gradient and changed:
      raise ValueError('gradient goes with neither accumulate, compute_dtype '
                       'nor model_state: these change how `loss` is used')
    if self.control and (num_lanes := len(self.lanes['seed'])) != 1:
      raise ValueError(f'control={self.control} with {num_lanes} lanes: batch '
                       'sizes of lanes would differ; there must be one')

  @property
  def parts(self) -> tuple[str, ...]:
    """Name the parts of the state."""
    return ('params', 'opt_state', 'model_state')[:3 if self.model_state else 2]


def key_for(seed: jax.Array, purpose: str) -> jax.Array:
  """Make the key of a seed for one purpose; purposes do not share streams."""
  tag = zlib.crc32(purpose.encode())
  return jax.random.fold_in(jax.random.key(seed), tag)


def common(program: Program, state: dict) -> dict:
  """Reduce what is private: the first worker's opt_state, means of the rest."""
  def mean(x):
    return x.mean(0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]

  reduce = {'params': lambda x: x.mean(0), 'opt_state': lambda x: x[0],
            'model_state': mean}
  return state | {name: jax.tree.map(reduce[name], state[name])
                  for name in program.private}
