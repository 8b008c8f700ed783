"""Rules by which a server handles a gradient that arrives.

A rule sees which worker sent the gradient and how stale it is, and decides
where the gradient goes; see `Trace` for the server's table.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradiv._common import checks


class Receipt(NamedTuple):
  """Decision about one gradient.

  Attributes:
    bank: Bank of the table that it enters.
    row: Row of the table that it enters.
    weight: Its weight in that entry; 0 discards it.
    steps: Whether the server then steps along the mean of the bank.
  """

  bank: int
  row: int
  weight: float
  steps: bool


@dataclasses.dataclass(frozen=True)
class Server:
  """A server with its rule.

  Attributes:
    receive: Function (worker, staleness) → `Receipt`.
    table: (banks, rows).
    threshold: Staleness at which a worker is restarted, if any.
  """

  receive: Callable[[int, int], Receipt]
  table: tuple[int, int] = (1, 1)
  threshold: int | None = None


def make(
  rule: str, num_workers: int, threshold: int | None, batch_size: int | None
) -> Server:
  """Return a server, or raise ValueError."""
  checks.choice('rule', rule, RULES)
  for name, value, belongs in (('threshold', threshold, 'ringmaster'),
                               ('batch_size', batch_size, 'rennala')):
    if rule == belongs:
      checks.count(name, value, 1)
    elif value is not None:
      raise ValueError(f'{name}={value!r}: must be None with rule={rule!r}')
  return RULES[rule](num_workers, threshold, batch_size)


def _asynchronous(num_workers, threshold, batch_size):
  del num_workers, batch_size
  return Server(lambda worker, staleness: Receipt(0, 0, 1.0, True),
                threshold=threshold)


def _rennala(num_workers, threshold, batch_size):
  del num_workers, threshold
  count = 0

  def receive(worker, staleness):
    nonlocal count
    del worker
    if staleness:
      return Receipt(0, 0, 0.0, False)
    count = count % batch_size + 1
    return Receipt(0, 0, 1 / count, count == batch_size)

  return Server(receive)


def _ringleader(num_workers, threshold, batch_size):
  """Work in rounds of n steps, one triggered by each worker.

  The bank in use has one row per worker, the mean of its b_i gradients, so that
  the direction is (1/n) Σ G_i/b_i. Phase 1 fills the bank until every worker is
  in it; the last one triggers the first step. In phase 2, each of the others
  triggers one step when it arrives, and its gradient joins its row. A worker
  that arrives again waits in the other bank, which belongs to the next round.
  No gradient in use is therefore more than 2n − 2 steps old.
  """
  del threshold, batch_size
  counts = np.zeros((2, num_workers), int)
  bank, due = 0, set()  # due: workers still to trigger a step; none in phase 1

  def receive(worker, staleness):
    nonlocal bank, due
    del staleness
    waits = bool(due) and worker not in due
    at = 1 - bank if waits else bank
    counts[at, worker] += 1
    if not due and counts[bank].all():
      due = set(range(num_workers))
    receipt = Receipt(at, worker, 1 / counts[at, worker], worker in due)
    due.discard(worker)
    if receipt.steps and not due:
      counts[bank], bank = 0, 1 - bank
    return receipt

  return Server(receive, (2, num_workers))


RULES = {
  'asynchronous': _asynchronous,
  'ringmaster': _asynchronous,
  'rennala': _rennala,
  'ringleader': _ringleader,
}
