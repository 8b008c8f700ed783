"""Parts of a study that are trained: what defines them, and what they recorded.

What defines a part is what its numbers depend on, and no more. The lanes of a
trained part are known by their coordinates: a run with one seed more trains the
lanes of that seed and goes on using the others. Each such training is a
*block*, a folder of its own with the lanes in `lanes.json`, made by `training`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from experiments.common import blocks
from experiments.common.blocks import At
from experiments.engine.schedule import Schedule
from experiments.engine.workers import Workers

if TYPE_CHECKING:
  from experiments.engine import signals
  from experiments.engine.program import Program


@dataclasses.dataclass(frozen=True)
class Trained:
  """The lanes that share one compiled program.

  Attributes:
    name: Of its folder below the workdir.
    axes: The lanes are their product: {'rate': (.1, .2), 'seed': (0, 1)}.
    program: Takes lanes {name: [L]} and returns what to train.
    schedule: How long.
    workers: Who computes.
    defined_by: All else that the numbers depend on, such as the data and the
      batch size.
    also: Takes the coordinates of a lane and returns what else it depends on,
      such as a learning rate tuned by an earlier part. `program` finds it among
      the lanes.
    dims: Names of the trailing dimensions of a quantity that is no scalar.
    finish: Takes the final state and lanes, and returns quantities [L, ...] to
      keep, such as a test accuracy.
  """

  name: str
  axes: Mapping[str, Sequence]
  program: Callable[[dict[str, np.ndarray]], Program]
  schedule: Schedule
  workers: Workers = Workers()
  defined_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  also: Callable[[At], At] = lambda at: {}
  dims: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  finish: Callable[[dict, dict[str, np.ndarray]], dict] | None = None

  def __post_init__(self):
    self.lanes  # noqa: B018 (now, as `also` may close over a loop's variable)

  @functools.cached_property
  def lanes(self) -> list[At]:
    """List the lanes, in the order of the product of the axes."""
    product = [dict(zip(self.axes, values))
               for values in itertools.product(*self.axes.values())]
    return [at | self.also(at) for at in product]

  @functools.cached_property
  def names(self) -> list[str]:
    """Name the lanes, as blocks do."""
    return list(map(blocks.name, self.lanes))

  @property
  def definition(self) -> dict[str, Any]:
    """All that the numbers of every lane depend on, as JSON has it."""
    schedule = {'steps': self.schedule.steps, 'every': self.schedule.every}
    return json.loads(json.dumps({
      **self.defined_by, **schedule,
      'num_workers': self.workers.num_workers}))

  def find_blocks(self, workdir: pathlib.Path,
                  allow_changed: Collection[str] = ()) -> list[blocks.Block]:
    """Find the blocks that hold wanted lanes."""
    also = ['num_workers'] if self.workers.allow_reshape else []
    return list(blocks.find(workdir / self.name, self.names, self.definition,
                            [*allow_changed, *also]))

  def check(self) -> None:
    """Trace a step and an evaluation of all lanes; nothing is computed."""
    self._shapes  # noqa: B018

  @functools.cached_property
  def _shapes(self):
    from experiments.common import training
    return training.shapes(self)

  def plan(self) -> xr.Dataset:
    """Return zeros with the shapes and coordinates of what `read` returns."""
    metrics = dict(self._shapes)
    rows = [{'step': step} | {
      name: np.zeros(x.shape) for name, x in metrics.items()}
      for step in range(0, self.schedule.steps + 1, self.schedule.every)]
    return self._dataset(self.names, rows, {})

  @property
  def size(self) -> int:
    """Count the steps of all lanes."""
    return len(self.lanes) * self.schedule.steps

  def missing(self, workdir: pathlib.Path,
              allow_changed: Collection[str] = ()) -> str:
    """Say what is not finished; empty where nothing is missing.

    Raises:
      OtherRunError: Where the folder holds these lanes by another definition.
    """
    found = set()
    for block in self.find_blocks(workdir, allow_changed):
      if block.is_done:
        found |= set(block.names)
    lacking = [at for at, name in zip(self.lanes, self.names)
               if name not in found]
    if not lacking:
      return ''
    first = ', '.join(f'{name}={lacking[0][name]}' for name in self.axes)
    return (f'{workdir / self.name} lacks {len(lacking)} of '
            f'{len(self.lanes)} lanes, the first {first}')

  def run(self, workdir: pathlib.Path, stop: signals.Stop,
          allow_changed: Collection[str] = (),
          watch: Mapping[str, Any] | None = None) -> None:
    """Train what is not finished; see `training`."""
    from experiments.common import training  # here: to read needs no JAX
    training.run(self, workdir, stop, allow_changed, watch)

  def final_state(self, workdir: pathlib.Path,
                  allow_changed: Collection[str] = ()) -> dict:
    """Read the last state, to go on from there; see `training`."""
    from experiments.common import training
    return training.final_state(self, workdir, allow_changed)

  def digest(self, workdir: pathlib.Path) -> str:
    """Hash what `read` reads."""
    return blocks.digest(workdir / self.name, self.names)

  def read(self, workdir: pathlib.Path) -> xr.Dataset:
    """Read every quantity [*axes, step, ...], by name and coordinate.

    NaN where a record lacks it; what `finish` returned has no step. Nothing may
    be `missing`.
    """
    return self._dataset(*blocks.read(workdir / self.name, self.names))

  def _dataset(self, names, rows, final) -> xr.Dataset:
    """Order the lanes as the axes are, and label everything."""
    place = {name: i for i, name in enumerate(names)}
    order = [place[name] for name in self.names]
    sizes = [len(values) for values in self.axes.values()]
    def labeled(name, x, dims):
      x = x[order].reshape(*sizes, *x.shape[1:])
      rest = x.ndim - len(sizes) - len(dims)
      more = self.dims.get(name) or [f'{name}_{i}' for i in range(rest)]
      return (*self.axes, *dims, *more), x

    recorded = dict.fromkeys(
      name for row in rows for name in row if name != 'step')
    variables = {}
    for name in recorded:
      some = next(np.asarray(row[name], float) for row in rows if name in row)
      nothing = np.full(some.shape, np.nan)
      x = np.array([np.asarray(row.get(name, nothing), float) for row in rows])
      variables[name] = labeled(name, np.moveaxis(x, 0, 1), ('step',))
    for name, x in final.items():
      variables[name] = labeled(name, np.asarray(x, float), ())
    coordinates = {name: list(values) for name, values in self.axes.items()}
    return xr.Dataset(
      variables, coordinates | {'step': [row['step'] for row in rows]})
