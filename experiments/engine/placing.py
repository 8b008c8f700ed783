"""Where the arrays of a run lie, when its workers are spread over processes.

A process holds the rows of its own workers, and all that is common.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.engine import processes
from experiments.engine.program import Program
from experiments.engine.workers import Workers


@dataclasses.dataclass(frozen=True)
class Placing:
  """Layouts over all devices of all processes.

  Attributes:
    mesh: One axis of all devices.
    private: A row for each worker, on the worker's device.
    common: The same on every device.
  """

  mesh: Mesh

  @property
  def private(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

  @property
  def common(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  def of_state(self, program: Program) -> dict[str, NamedSharding]:
    """Say where each part of the state lies."""
    return {name: self.private if name in program.private else self.common
            for name in program.parts}

  def rows(self, rows: Any, gather: Callable[[Any], Any]) -> Any:
    """Gather the examples of this process's workers alone, and place them.

    Args:
      rows: A tree of arrays [W, ...], with a row for each of all workers.
      gather: rows -> what to send to the devices.
    """
    num_workers = len(jax.tree.leaves(rows)[0])
    where = self.private.addressable_devices_indices_map((num_workers,))
    mine = []
    for device, index in where.items():
      own = gather(jax.tree.map(lambda x, index=index: x[index], rows))
      mine.append(jax.device_put(own, device))
    return jax.tree.map(
      lambda *xs: jax.make_array_from_single_device_arrays(
        (num_workers, *xs[0].shape[1:]), self.private, list(xs)), *mine)


def of(workers: Workers) -> Placing | None:
  """Return the layouts, or None where each process computes by itself.

  Raises:
    ValueError: Where the workers leave out a device, or several of them share
      one process.
  """
  if processes.count() == 1 or workers.num_workers == 1:
    return None
  if workers.backend != 'shard_map':
    raise ValueError(
      f'backend={workers.backend!r}: {workers.num_workers} workers lie in one '
      f"process; of {processes.count()}, backend='shard_map' is needed")
  if workers.num_workers % jax.device_count():
    raise ValueError(
      f'num_workers={workers.num_workers}: must be a multiple of the '
      f'{jax.device_count()} devices of {processes.count()} processes')
  names = workers.axis_name
  return Placing(Mesh(np.array(jax.devices()),
                      names if isinstance(names, str) else names[:1]))


def put(tree: Any, shardings: Any) -> Any:
  """Place what each process knows whole; nothing is sent.

  Args:
    tree: Arrays, equal in all processes.
    shardings: A sharding for each, as a prefix tree.
  """
  def one(sharding, x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
        one(sharding, jax.random.key_data(x)), impl=jax.random.key_impl(x))
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index])

  return jax.tree.map(lambda sharding, sub: jax.tree.map(
    lambda x: one(sharding, x), sub), shardings, tree)


def local(tree: Any) -> Any:
  """Return arrays of this process in place of what is common to all."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)
