"""From examples to the batches of a run: in memory, or streamed and prefetched.

Which examples a step reads is a pure function of (seed, step) either way, so
the two give equal runs. In memory, the examples lie on the device and a step is
sent indices; streamed, it is sent the examples themselves.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.ordering import order


class Batches(NamedTuple):
  """Where the batches of a run come from; the functions of a `Program`.

  Attributes:
    data: Arrays for the device, common to all steps.
    fetch: steps [K] -> a tree of arrays [1, K, batch size, ...], on the host.
    batch: (data, lane, rows [b, ...]) -> a batch of b examples.
    gather: What `fetch` returned, in any shape -> what is sent to the device
      in its place.
  """

  data: Any
  fetch: Callable[[np.ndarray], Any]
  batch: Callable[[Any, Any, Any], Any]
  gather: Callable[[Any], Any] = lambda rows: rows


def in_memory(arrays: dict[str, np.ndarray], batch_size: int, *, seed: int = 0,
              sampling: str = 'epoch') -> Batches:
  """Draw batches from arrays that fit into the memory of the device.

  >>> batches = in_memory({'x': np.arange(10)}, 4)
  >>> batches.fetch(np.arange(3)).shape
  (1, 3, 4)

  Args:
    arrays: {name: [n, ...]}.
    batch_size: Of all workers together.
    seed: Of the order.
    sampling: 'epoch' or 'replacement', as in `data.order`.
  """
  sizes = {name: len(x) for name, x in arrays.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(f'arrays of lengths {sizes}: all must have one example a '
                     'row')
  draw = _drawing(min(sizes.values()), batch_size, seed, sampling)
  return Batches(arrays, draw, lambda data, lane, rows: {
    name: x[rows] for name, x in data.items()})


def streamed(gather: Callable[[np.ndarray], Any], num_examples: int,
             batch_size: int, *, seed: int = 0, sampling: str = 'epoch'
             ) -> Batches:
  """Draw batches from examples that are read as they are needed.

  Args:
    gather: Indices of any shape -> arrays [*shape, ...], such as `gather` of
      `data.Examples`. Called in a thread.
    num_examples: How many there are.
    batch_size: Of all workers together.
    seed: Of the order.
    sampling: 'epoch' or 'replacement', as in `data.order`.
  """
  draw = _drawing(num_examples, batch_size, seed, sampling)
  return Batches((), draw, lambda data, lane, rows: rows, gather)


def by_step(batch: Callable[[int], Any]) -> Batches:
  """Take batches from a function of one's own: step -> tree of [B, ...]."""
  def fetch(steps):
    batches = [batch(int(step)) for step in steps]
    return jax.tree.map(lambda *xs: np.stack(xs)[None], *batches)

  return Batches((), fetch, lambda data, lane, rows: rows)


def prefetch(fetch: Callable[[Any], Any], calls: Iterable[Any]
             ) -> Iterator[Any]:
  """Yield ``fetch(call)`` of each call, computed in a thread, one ahead.

  >>> list(prefetch(lambda step: 2 * step, range(3)))
  [0, 2, 4]
  """
  with futures.ThreadPoolExecutor(1, 'prefetch') as pool:
    jobs = collections.deque()
    try:
      for call in calls:
        jobs.append(pool.submit(fetch, call))
        if len(jobs) > 1:
          yield jobs.popleft().result()
      while jobs:
        yield jobs.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)


def _drawing(num_examples, batch_size, seed, sampling):
  draw = lambda steps: order(
    seed, steps, batch_size, num_examples, sampling=sampling)[None]
  draw(np.arange(1))  # raises on a bad argument now
  return draw

