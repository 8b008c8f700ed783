"""The batch size of a run that a controller chooses while it goes on.

A controlled run is counted in *smallest batches*, those of the lowest rung of
the ladder: k of them make one step on a batch of k times the size. So the steps
of a schedule, and of its records, say how many examples have been seen, and the
examples of step t and the noise of the loss are what they would be if the batch
had never grown. After each scan, the controller looks at what was tracked and
chooses the batch of the next one. A rung is compiled when it is first used.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from gradiv import scaling
from gradiv.scaling import controllers

# What `Controller.update` may ask for, by the names of its arguments.
_MEASURED = ('reading', 'measured', 'loss', 'learning_rate', 'num_examples')


class ControlState(NamedTuple):
  """What a controlled run knows between two scans; numbers, for a checkpoint.

  Attributes:
    controller: The state of the controller, with the present batch size.
    updates: Steps of the optimizer so far.
    predicted: The factor on the learning rate that theory predicts for the
      present batch size; NaN where nothing is known.
  """

  controller: Any
  updates: int = 0
  predicted: float = math.nan


@dataclasses.dataclass(frozen=True)
class Control:
  """A controller of the batch size, and the learning rate that goes with it.

  The optimizer of the run comes without a learning rate, as `optax.trace` or
  `optax.scale_by_adam` do: its updates are multiplied by the rate and
  subtracted. It gets two extra arguments: ``batch_size``, the examples of a
  worker in this step, which `gradiv.track_moments` needs, and ``scale``, the
  batch over the first one, which `scaling.scale_by_diversity` needs.

  Attributes:
    controller: Of `gradiv.scaling.controllers`, or an object with `ladder`,
      `first`, `init`, `update` and `rate_factor`. `update` is given what its
      arguments name, among `reading` or `measured`, that of the one tracker in
      the optimizer's state; `loss`, its mean over the last scan;
      `learning_rate`; `num_examples` seen.
    learning_rate: The rate for the first batch size, or a schedule of it by
      examples seen. With None it is that of the controller, if it has one, as
      `Seesaw` does; otherwise that of the optimizer, whose updates are added as
      they are.
    predict: Law of the rate for another batch size: `scaling.online_rate` of
      SGD, or `scaling.square_root_rate` of Adam.
    follows: Whether the rate is the predicted one, as soon as there is one, in
      place of what the controller's `rate_rule` says.

  Raises:
    ValueError: If the controller has no ladder, or needs what the trainer does
      not measure; of a wrong rate.
  """

  controller: Any
  learning_rate: float | Callable[[Any], Any] | None
  predict: Callable[..., Any] = scaling.online_rate
  follows: bool = False

  def __post_init__(self):
    if not isinstance(getattr(self.controller, 'ladder', None),
                      controllers.Ladder):
      raise ValueError(f'controller={self.controller!r}: must be one of '
                       'gradiv.scaling.controllers, with a ladder')
    if unknown := [name for name in self.needs if name not in _MEASURED]:
      raise ValueError(
        f'controller={self.controller!r}: needs {unknown}, which the trainer '
        f'does not measure; it knows {_MEASURED}')
    rate = self.learning_rate
    if isinstance(rate, int | float) and not 0 < rate < math.inf:
      raise ValueError(f'learning_rate={rate!r}: must be positive and finite')

  @property
  def needs(self) -> list[str]:
    """Name what the controller must be given at a look."""
    _, *rest = inspect.signature(self.controller.update).parameters.values()
    return [p.name for p in rest if p.default is p.empty]

  @property
  def least(self) -> int:
    """The smallest batch size."""
    return self.controller.ladder.least

  @property
  def has_rate(self) -> bool:
    """Whether the updates are multiplied by a rate here."""
    return self.learning_rate is not None or hasattr(self.controller, 'rate')

  def describe(self) -> dict[str, Any]:
    """Say, as JSON, what distinguishes runs of this control from others."""
    fields = dataclasses.asdict(self.controller) if dataclasses.is_dataclass(
      self.controller) else {}
    plain = {name: x for name, x in fields.items() if not callable(x)}
    rate = None if callable(self.learning_rate) else self.learning_rate
    return {'controller': {'name': type(self.controller).__name__, **plain},
            'learning_rate': rate, 'follows': self.follows}

  def check(self, scan: int, num_workers: int) -> None:
    """Raise ValueError unless each rung fits into a scan and onto the workers.

    Args:
      scan: Smallest batches of a scan.
      num_workers: That share each batch.
    """
    ladder = self.controller.ladder
    if scan % (ladder.most // ladder.least):
      raise ValueError(
        f'scan={scan}: must be a multiple of {ladder.most // ladder.least}, '
        f'for batches of {ladder.most} examples, as it counts batches of '
        f'{ladder.least}')
    if ladder.least % num_workers:
      raise ValueError(f'least={ladder.least} of the ladder: must be a '
                       f'multiple of num_workers={num_workers}')

  def init(self) -> ControlState:
    """Return the state before the first look."""
    return ControlState(self.controller.init())

  def multiple(self, state: ControlState) -> int:
    """Count the smallest batches in a batch."""
    return state.controller.batch_size // self.least

  def factor(self, state: ControlState) -> float:
    """Return what the rate of the first batch size is multiplied by."""
    if not self.has_rate:
      return math.nan
    if self.learning_rate is None:
      return self.controller.rate(state.controller)
    if self.follows and math.isfinite(state.predicted):
      return state.predicted
    return self.controller.rate_factor(state.controller)

  def reference_rate(self, num_examples: Any) -> Any:
    """Return the rate for the first batch size; works under `jit`."""
    rate = 1. if self.learning_rate is None else self.learning_rate
    return rate(num_examples) if callable(rate) else rate

  def extra(self, num_examples: int, num_workers: int) -> dict[str, Any]:
    """Return what the optimizer is told of a step, of a worker's examples."""
    return {'batch_size': num_examples,
            'scale': num_examples * num_workers / self.controller.first}

  def scaled(self, updates: Any, factor: Any, step: Any) -> Any:
    """Multiply updates by minus the rate, at a step in smallest batches."""
    if not self.has_rate:
      return updates
    rate = factor * self.reference_rate(step * jnp.float32(self.least))
    return jax.tree.map(lambda x: (-rate * x).astype(x.dtype), updates)

  def look(self, state: ControlState, reading: gradiv.Reading | None,
           loss: float, num_examples: int) -> ControlState:
    """Let the controller choose the next batch size.

    Args:
      state: The present state.
      reading: On the host; None where nothing is tracked.
      loss: Its mean over the last scan; NaN before the first.
      num_examples: Seen so far.
    """
    if reading is None and {'reading', 'measured'} & set(self.needs):
      raise ValueError(
        f'controller={type(self.controller).__name__}: the optimizer must hold '
        'one gradiv.track_moments')
    if math.isnan(loss) and 'loss' in self.needs:
      return state
    rate = self.factor(state) * float(self.reference_rate(float(num_examples)))
    known = {'reading': reading, 'measured': reading, 'loss': loss,
             'learning_rate': rate, 'num_examples': num_examples}
    chosen, size = self.controller.update(
      state.controller, **{name: known[name] for name in self.needs})
    return state._replace(
      controller=chosen, predicted=self._predicted(reading, size))

  def _predicted(self, reading, batch_size):
    if reading is None or self.learning_rate is None:
      return math.nan
    whole = reading if reading.whole is None else reading.whole
    return float(self.predict(
      1., whole.estimate, reference_batch_size=self.controller.first,
      batch_size=batch_size))

  def columns(self, state: ControlState, num_examples: int
              ) -> dict[str, np.ndarray]:
    """Return what to record, of the one lane that there is."""
    rate = float(self.reference_rate(float(num_examples)))
    values = {
      'batch_size': state.controller.batch_size, 'examples': num_examples,
      'updates': state.updates, 'learning_rate': rate * self.factor(state),
      'predicted_rate': rate * state.predicted}
    return {name: np.array([x]) for name, x in values.items()}
