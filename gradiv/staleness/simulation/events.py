"""Simulate workers of different speed, event by event, on the host.

Service times go in, a `Trace` comes out. It depends on the times and on the
server's rule but not on gradients, so that one trace can be replayed with any
problem and any optimizer; see `gradiv.staleness.replay`.
"""

import dataclasses
import heapq
from collections.abc import Callable, Sequence

import numpy as np

from gradiv._common import checks
from gradiv.staleness.simulation import servers

# Random factors of a mean service time, with mean one. The variance of the last
# is infinite.
LAWS = {
  'constant': lambda rng: 1.0,
  'exponential': lambda rng: rng.exponential(),
  'pareto': lambda rng: (1 + rng.pareto(1.5)) / 3,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
  """The A gradients that arrived, in order, and how the server handled each.

  The server keeps a table [banks, rows] of gradients. An arriving gradient g
  enters ``table[bank, row]`` by its weight w: entry ← (1 − w) entry + w g. If
  `steps` is True, the server then steps along the mean of that bank's rows.

  Attributes:
    time: [A], arrival times.
    worker: [A], index of the worker.
    version: [A], version of the parameters at which the gradient was taken;
      version k is the result of k steps.
    staleness: [A], steps between reading the parameters and the arrival.
    bank: [A], bank of the table.
    row: [A], row of the table.
    weight: [A], weight of the gradient; 0 if it is discarded.
    steps: [A], whether the server steps.
    reading: [n], version that each worker is working on at the end.
    table: (banks, rows).
  """

  time: np.ndarray
  worker: np.ndarray
  version: np.ndarray
  staleness: np.ndarray
  bank: np.ndarray
  row: np.ndarray
  weight: np.ndarray
  steps: np.ndarray
  reading: np.ndarray
  table: tuple[int, int]

  @property
  def num_steps(self) -> int:
    """Number of steps that the server made."""
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
  """Simulate asynchronous workers and a server for a number of steps.

  Each worker reads the latest parameters, spends some time on a gradient there,
  hands it in, and starts again. The server follows one of these rules:

    asynchronous  step along each gradient
    ringmaster    as asynchronous, but restart a worker as soon as `threshold`
                  steps have been made since it read the parameters
    rennala       step along the mean of `batch_size` gradients that were all
                  taken at the latest parameters; discard the others
    ringleader    step along the mean of the workers' means, for data that
                  differ between workers

  Workers 0 and 1 alternate below; worker 2, four times slower, is not done:

  >>> trace = simulate([1., 1., 4.], 6, law='constant')
  >>> trace.worker.tolist(), trace.staleness.tolist()
  ([0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1])

  *Maranjyan et al., `Ringmaster ASGD <https://arxiv.org/abs/2501.16168>`_,
  2025; Tyurin and Richtárik, `Optimal Time Complexities of Parallel Stochastic
  Optimization Methods <https://arxiv.org/abs/2305.12387>`_, 2023, for Rennala;
  Maranjyan and Richtárik, `Ringleader ASGD
  <https://arxiv.org/abs/2509.22860>`_, 2025*.

  Args:
    service_times: [n], mean time per gradient of each worker.
    num_steps: Number of steps of the server.
    law: Distribution of a service time over its mean: 'constant',
      'exponential', 'pareto' (infinite variance), or a function from a NumPy
      generator to a positive factor.
    rule: 'asynchronous', 'ringmaster', 'rennala' or 'ringleader'.
    threshold: R, for 'ringmaster' only; see `ringmaster_threshold`.
    batch_size: Gradients per step, for 'rennala' only.
    seed: Seed of the times. The j-th job of a worker takes the same time under
      every rule.
  """
  n = len(service_times)
  checks.count('len(service_times)', n, 1)
  for mean in service_times:
    checks.positive('service_times', mean)
  checks.count('num_steps', num_steps, 1)
  if not callable(law):
    checks.choice('law', law, LAWS)
    law = LAWS[law]
  server = servers.make(rule, n, threshold, batch_size)
  workers = _Workers(service_times, law, seed)
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
    self.jobs = np.zeros(len(means), int)  # each worker's latest job
    self.started, self.heap = 0, []
    for worker in range(len(means)):
      self.start(worker, 0, 0.0)

  def start(self, worker, version, time):
    """Start a new job of a worker, and abandon the one it was working on."""
    factor = float(self.law(self.rngs[worker]))
    checks.positive('law', factor)
    self.started += 1  # breaks ties: earlier jobs finish first
    self.jobs[worker], self.reading[worker] = self.started, version
    heapq.heappush(self.heap, (
      time + self.means[worker] * factor, self.started, int(worker)))

  def wait(self):
    """Return (time, worker) of the next job to finish."""
    while True:
      time, job, worker = heapq.heappop(self.heap)
      if job == self.jobs[worker]:
        return time, worker
