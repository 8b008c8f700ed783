"""Who computes: workers that share each batch, and lanes side by side.

To say so needs no JAX; it is imported where something is laid out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.engine import arguments

if TYPE_CHECKING:
  import gradiv

BACKENDS = ('vmap', 'pmap', 'shard_map')


@dataclasses.dataclass(frozen=True)
class Workers:
  """How many workers, on which backend, and how many lanes at once.

  With lanes_at_once = 0 all lanes are vmapped; otherwise that many, one group
  after the other within each step. With `is_reversed` each worker takes the
  examples of its batch in reverse order: the same run up to rounding, which
  shows what rounding alone decides. With `allow_reshape` a run may go on that
  was begun by another number of workers, devices or processes; the state of
  workers becomes that of others by `gradiv.resize_workers`.
  """

  num_workers: int = 1
  backend: str = 'vmap'
  lanes_at_once: int = 0
  is_reversed: bool = False
  allow_reshape: bool = False

  def __post_init__(self):
    arguments.whole('num_workers', self.num_workers, 1)
    arguments.whole('lanes_at_once', self.lanes_at_once, 0)
    if self.backend not in BACKENDS:
      raise ValueError(f'backend={self.backend!r}: must be one of '
                       f'{", ".join(BACKENDS)}')

  @property
  def axis_name(self) -> gradiv.AxisName:
    """Two names where a backend puts several workers on a device."""
    import jax
    single = self.backend == 'vmap' or self.num_workers <= jax.device_count()
    return 'workers' if single else ('devices', 'workers')

  @property
  def layout(self) -> dict[str, int]:
    """On what the workers lie, and with it the order of summation."""
    import jax

    from experiments.engine import processes
    most = 1 if self.backend == 'vmap' else min(
      self.num_workers, jax.device_count())
    devices = next(
      d for d in range(most, 0, -1) if self.num_workers % d == 0)
    return {'num_workers': self.num_workers, 'devices': devices,
            'processes': 1 if devices == 1 else processes.count()}

  def over_lanes(self, fn: Callable, *trees: Any) -> Any:
    """Apply `fn` to each lane."""
    import jax
    if not self.lanes_at_once:
      return jax.vmap(fn)(*trees)
    return jax.lax.map(lambda lane: fn(*lane), trees,
                       batch_size=self.lanes_at_once)

  def split(self, tree: Any) -> Any:
    """Deal batches out: [orders, K, W·b, ...] to [W, K, orders, b, ...]."""
    import jax

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
