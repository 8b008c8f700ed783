"""The servers, word by word, to compare `simulate` and `replay` to."""

import numpy as np

from gradiv import staleness

RULES = (
  ('asynchronous', {}), ('ringmaster', dict(threshold=3)),
  ('rennala', dict(batch_size=4)), ('ringleader', {}),
)
# Of very different speed.
MEANS = (1., 1.3, 2., 5., 0.4)


def trace_of(rule, law='exponential', steps=200, means=MEANS, seed=0,
             **options):
  return staleness.simulate(
    means, steps, rule=rule, law=law, seed=seed, **options)


def each_arrival(trace):
  """Asynchronous SGD: [{arrival: weight}] of each step, in their order."""
  return [{a: 1.} for a in range(len(trace.worker))]


def rennala(trace, batch_size):
  """Collect gradients of the latest parameters alone."""
  steps, batch = [], []
  for a, version in enumerate(trace.version):
    if version == len(steps):
      batch.append(a)
    if len(batch) == batch_size:
      steps.append({b: 1 / batch_size for b in batch})
      batch = []
  return steps


def ringleader(trace, n):
  """Tables G and G⁺, of arrivals; S, of workers; two phases."""
  steps, table, ahead = [], {i: [] for i in range(n)}, None
  arrivals = enumerate(trace.worker)

  def step():
    steps.append({a: 1 / n / len(rows) for rows in table.values()
                  for a in rows})

  try:
    while True:
      seen = {i for i, rows in table.items() if rows}
      while seen != set(range(n)):  # phase 1
        a, j = next(arrivals)
        table[j].append(a)
        seen.add(j)
      step()
      seen.discard(j)
      ahead = {i: [] for i in range(n)}
      while seen:  # phase 2
        a, j = next(arrivals)
        if j in seen:
          table[j].append(a)
          step()
          seen.discard(j)
        else:
          ahead[j].append(a)
      table = ahead
  except StopIteration:
    return steps


def weights_of(trace, rule, batch_size=None, **unused):
  """[T, A], what each arrival weighs in each step, by the paper."""
  steps = {
    'asynchronous': lambda: each_arrival(trace),
    'ringmaster': lambda: each_arrival(trace),
    'rennala': lambda: rennala(trace, batch_size),
    'ringleader': lambda: ringleader(trace, len(trace.reading)),
  }[rule]()
  weights = np.zeros((len(steps), len(trace.worker)))
  for row, step in zip(weights, steps):
    row[list(step)] = list(step.values())
  return weights
