"""What a training is made of: what the lanes do, how long, and who computes."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

import gradiv

Lane = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Program:
  """What the lanes of a run do, as pure functions.

  Attributes:
    lanes: Hyperparameters [L, ...] of each lane; 'seed' and 'order' among
      them, the row of `fetch` whose batches the lane takes.
    data: Arrays common to all lanes, on the device.
    init: lane -> params.
    make_optimizer: lane -> optax transformation, under `axis_name`.
    fetch: steps [K] -> what a batch is made of on the host: a tree of arrays
      [orders, K, batch size, ...], of indices or of examples.
    batch: (data, lane, rows [b, ...]) -> a worker's batch.
    loss: (params, batch, key) -> the mean loss over the batch.
    evaluate: (data, lane, params) -> dict of scalars.
    read: opt_state -> dict of scalars to record.
    compare: params of all lanes -> dict of arrays to record.
    gradient: (lane, params, batch, key) -> (loss, gradient), where it is not
      that of `loss`; here the lane holds the 'step', too, which is common to
      all lanes. The optimizer takes whatever stands for the gradient.
    private: Which of 'params' and 'opt_state' each worker has its own of, with
      a leading axis of workers. `read` sees that of the first worker,
      `evaluate` and `compare` the mean of the params.
  """

  lanes: Lane
  data: Any
  init: Callable
  make_optimizer: Callable
  fetch: Callable
  batch: Callable
  loss: Callable
  evaluate: Callable
  read: Callable = lambda opt_state: {}
  compare: Callable = lambda params: {}
  gradient: Callable | None = None
  private: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a run is, and how often it looks up.

  Attributes:
    steps: In all; a multiple of `every`.
    every: Steps of a chunk: between two evaluations and records.
    save_seconds: Least time between two checkpoints; a signal and the end
      save at once.
  """

  steps: int
  every: int
  save_seconds: float = 20.0

  def __post_init__(self):
    if self.every < 1 or self.steps < 1 or self.steps % self.every:
      raise ValueError(
        f'steps={self.steps}, every={self.every}: must be positive, and steps '
        'a multiple of every'
      )


@dataclasses.dataclass(frozen=True)
class Workers:
  """Who computes: how many workers, on which backend, how many lanes at once.

  With lanes_at_once = 0 all lanes are vmapped; otherwise that many, one group
  after the other within each step. With `is_reversed` each worker takes the
  examples of its batch in reverse order: the same run up to rounding, which
  shows what rounding alone decides.
  """

  num_workers: int = 1
  backend: str = 'vmap'
  lanes_at_once: int = 0
  is_reversed: bool = False

  @property
  def axis_name(self) -> gradiv.AxisName:
    """Two names where a backend puts several workers on a device."""
    single = self.backend == 'vmap' or self.num_workers <= jax.device_count()
    return 'workers' if single else ('devices', 'workers')

  def over_lanes(self, fn: Callable, *trees: Any) -> Any:
    """Apply `fn` to each lane."""
    if not self.lanes_at_once:
      return jax.vmap(fn)(*trees)
    return lax.map(lambda lane: fn(*lane), trees,
                   batch_size=self.lanes_at_once)

  def split(self, tree: Any) -> Any:
    """Deal batches out: [orders, K, W·b, ...] to [W, K, orders, b, ...]."""
    def deal(x):
      orders, steps, size, *rest = x.shape
      if size % self.num_workers:
        raise ValueError(
          f'batch_size={size}: must be a multiple of '
          f'num_workers={self.num_workers}'
        )
      x = x.reshape(orders, steps, self.num_workers, -1, *rest)
      if self.is_reversed:
        x = x[:, :, :, ::-1]
      return np.moveaxis(x, (2, 1, 0), (0, 1, 2))

    return jax.tree.map(deal, tree)


def key_for(seed: jax.Array, purpose: str) -> jax.Array:
  """Make the key of a seed for one purpose; purposes do not share streams."""
  tag = zlib.crc32(purpose.encode())
  return jax.random.fold_in(jax.random.key(seed), tag)


def common(program: Program, state: dict) -> dict:
  """Reduce what is private: the mean of params, else the first worker's."""
  reduce = {'params': lambda x: x.mean(0), 'opt_state': lambda x: x[0]}
  return state | {name: jax.tree.map(reduce[name], state[name])
                  for name in program.private}
