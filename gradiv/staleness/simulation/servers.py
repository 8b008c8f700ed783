"""What a server does with a gradient that arrives: the rules of `simulate`.

A server knows who sent it and how stale it is, and says where it goes: see
`Trace` for the table that it keeps.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradiv._common import checks


class Receipt(NamedTuple):
  """What is done with one gradient.

  Attributes:
    bank: Where it goes.
    row: Likewise.
    share: Its weight beside what is there; 0: it is discarded.
    steps: Whether the server then steps, along the mean over the bank.
  """

  bank: int
  row: int
  share: float
  steps: bool


@dataclasses.dataclass(frozen=True)
class Server:
  """A rule.

  Attributes:
    receive: (worker, staleness) → `Receipt`.
    table: (banks, rows).
    threshold: The staleness at which a worker is stopped, if any.
  """

  receive: Callable[[int, int], Receipt]
  table: tuple[int, int] = (1, 1)
  threshold: int | None = None


def make(
  rule: str, num_workers: int, threshold: int | None, batch_size: int | None
) -> Server:
  """Make a server, or raise ValueError."""
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
  """Take rounds of n steps, in which each worker makes the server step once.

  The table in use has a row a worker, the mean of b_i gradients: the direction
  is (1/n) Σ G_i/b_i. Phase 1 fills it until each worker is in it; whoever is
  the last makes the first step. In phase 2 each of the others makes one, when
  it arrives, and joins its row. Who comes again waits in the other table,
  which is that of the next round. So no gradient in use is more than 2n − 2
  steps old.
  """
  del threshold, batch_size
  counts = np.zeros((2, num_workers), int)
  bank, due = 0, set()  # due: whose step is still to come; none in phase 1

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
