"""How long a run is, and what it does how often."""

import dataclasses

from experiments.engine import arguments


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a run is, and how often it records, evaluates and saves.

  Periods nest: scan divides record_every, which divides evaluate_every, which
  divides steps. All of them are `every` where nothing else is said.

  >>> Schedule(1000, 100)
  Schedule(steps=1000, every=100, save_seconds=20.0, scan=100,
           record_every=100, evaluate_every=100)
  >>> Schedule(1000, 100, record_every=10).scan
  10

  Attributes:
    steps: In all.
    every: Steps between two evaluations and records.
    save_seconds: Least time between two checkpoints; a signal and the end
      save at once.
    scan: Steps of one compiled scan. A signal is heard, and a checkpoint saved,
      between two scans; the examples of two scans lie in memory. By default
      `record_every`.
    record_every: Steps between two records of the loss. By default `every`.
    evaluate_every: Steps between two evaluations. By default `every`.
  """

  steps: int
  every: int
  save_seconds: float = 20.0
  scan: int | None = None
  record_every: int | None = None
  evaluate_every: int | None = None

  def __post_init__(self):
    arguments.seconds('save_seconds', self.save_seconds)
    for name in ('steps', 'every', 'scan', 'record_every', 'evaluate_every'):
      if (value := getattr(self, name)) is not None:
        arguments.whole(name, value, 0)
    if self.every < 1 or self.steps < 1 or self.steps % self.every:
      raise ValueError(
        f'steps={self.steps}, every={self.every}: must be positive, and steps '
        'a multiple of every')
    fill = lambda name, default: object.__setattr__(
      self, name, default if getattr(self, name) is None else
      getattr(self, name))
    fill('evaluate_every', self.every)
    fill('record_every', min(self.every, self.evaluate_every))
    fill('scan', self.record_every)
    names = ('scan', 'record_every', 'evaluate_every', 'steps')
    for small, large in zip(names, names[1:]):
      period, whole = getattr(self, small), getattr(self, large)
      if period < 1 or whole % period:
        raise ValueError(
          f'{small}={period}, {large}={whole}: must be positive, and {large} a '
          f'multiple of {small}')
