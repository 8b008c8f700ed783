"""Who is stale when: workers of different speed, simulated event by event.

On the host, in NumPy: service times in, a `Trace` out. What is in it depends
on times and on the rule of the server, never on a gradient, so that one trace
can be replayed, by `replay`, with any problem and any optimizer.
"""

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import numpy as np

from gradiv._common import checks
from gradiv.staleness.simulation import servers

# Factors of a mean service time, of mean one. The last has no variance.
LAWS = {
  'constant': lambda rng: 1.0,
  'exponential': lambda rng: rng.exponential(),
  'pareto': lambda rng: (1 + rng.pareto(1.5)) / 3,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
  """All gradients that arrived, in their order, and what the server did.

  The server keeps a table [banks, rows] of gradients. One that arrives enters
  ``table[bank, row]`` with its share: entry ← (1 − share) entry + share g. If
  `steps`, the server then steps along the mean over the rows of that bank.

  Attributes:
    time: [A], of arrival.
    worker: [A].
    version: [A], at which the gradient was taken; version k is what k steps
      have made.
    staleness: [A], steps between the reading and the arrival.
    bank: [A].
    row: [A].
    share: [A], 0 where the gradient is discarded.
    steps: [A], whether the server steps.
    reading: [n], the version that each worker is at work on at the end.
    table: (banks, rows).
  """

  time: np.ndarray
  worker: np.ndarray
  version: np.ndarray
  staleness: np.ndarray
  bank: np.ndarray
  row: np.ndarray
  share: np.ndarray
  steps: np.ndarray
  reading: np.ndarray
  table: tuple[int, int]

  @property
  def num_steps(self) -> int:
    """Count the steps of the server."""
    return int(self.steps.sum())


def simulate(
  service_times: Sequence[float],
  num_steps: int,
  *,
  law: str | Callable[[np.random.Generator], float] = 'exponential',
  rule: str = 'asynchronous',
  threshold: int | None = None,
  batch_size: int | None = None,
  seed: int = 0,
) -> Trace:
  """Simulate workers and a server until it has made so many steps.

  Each worker reads the latest parameters, takes a gradient there, which takes
  its time, hands it in, and starts anew. The server:

    asynchronous  steps along each gradient
    ringmaster    likewise, and stops a worker as soon as `threshold` steps
                  have been made since it read: it starts anew
    rennala       steps along the mean of `batch_size` gradients, all taken at
                  the latest parameters; those of older ones are discarded
    ringleader    steps along the mean of the workers' means, for data that
                  differ by worker: see `servers`

  >>> trace = simulate([1., 1., 4.], 6, law='constant')
  >>> trace.worker.tolist(), trace.staleness.tolist()
  ([0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1])

  Maranjyan et al., `Ringmaster ASGD <https://arxiv.org/abs/2501.16168>`_,
  2025; Tyurin and Richtárik, `Optimal Time Complexities of Parallel Stochastic
  Optimization Methods <https://arxiv.org/abs/2305.12387>`_, 2023, for Rennala;
  Maranjyan and Richtárik, `Ringleader ASGD
  <https://arxiv.org/abs/2509.22860>`_, 2025.

  Args:
    service_times: [n], the mean time that each worker takes.
    num_steps: T, of the server.
    law: Of the factor of that mean: 'constant', 'exponential', 'pareto', of
      infinite variance, or any rng → factor.
    rule: 'asynchronous', 'ringmaster', 'rennala' or 'ringleader'.
    threshold: R of 'ringmaster'; see `ringmaster_threshold`.
    batch_size: S of 'rennala'.
    seed: Of the times. Job j of a worker takes as long under every rule.

  Raises:
    ValueError: On a bad argument, and on a law that gives a bad time.
  """
  n = len(service_times)
  checks.count('the number of service_times', n, 1)
  for mean in service_times:
    checks.positive('service_times', mean)
  checks.count('num_steps', num_steps, 1)
  if not callable(law):
    checks.choice('law', law, LAWS)
  server = servers.make(rule, n, threshold, batch_size)
  workers = _Workers(service_times, LAWS.get(law, law), seed)
  arrivals, version = [], 0
  while version < num_steps:
    time, worker = workers.wait()
    read = workers.reading[worker]
    receipt = server.receive(worker, version - read)
    arrivals.append((time, worker, read, version - read, *receipt))
    version += receipt.steps
    workers.start(worker, version, time)
    if server.threshold is not None:
      for late in np.flatnonzero(version - workers.reading
                                 >= server.threshold):
        workers.start(late, version, time)
  columns = map(np.array, zip(*arrivals))
  return Trace(*columns, reading=workers.reading, table=server.table)


class _Workers:
  """Workers, each at work on one gradient."""

  def __init__(self, means, law, seed):
    self.means, self.law = means, law
    self.rngs = [np.random.default_rng((seed, i)) for i in range(len(means))]
    self.reading = np.zeros(len(means), int)
    self.jobs = np.zeros(len(means), int)  # the number of each worker's last
    self.started, self.heap = 0, []
    for worker in range(len(means)):
      self.start(worker, 0, 0.0)

  def start(self, worker, version, time):
    """Set a worker to work, whatever it was about."""
    factor = float(self.law(self.rngs[worker]))
    checks.positive('law', factor)
    self.started += 1  # who started first is the first of a tie
    self.jobs[worker], self.reading[worker] = self.started, version
    heapq.heappush(self.heap, (
      time + self.means[worker] * factor, self.started, int(worker)))

  def wait(self):
    """Return (time, worker) of the next to finish what it is at work on."""
    while True:
      time, job, worker = heapq.heappop(self.heap)
      if job == self.jobs[worker]:
        return time, worker
