"""Parts of a study that are trained: lanes that share a program.

What defines a part is what its numbers depend on, and no more. The lanes of a
trained part are known by their coordinates: a run with one seed more trains the
lanes of that seed and goes on using the others. Each such training is a
*block*, a folder of its own with the lanes in `lanes.json`.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from experiments.common import blocks
from experiments.common.blocks import At
from experiments.engine import (
  checkpoints,
  processes,
  records,
  signals,
  trainer,
)


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
  program: Callable[[dict[str, np.ndarray]], trainer.Program]
  schedule: trainer.Schedule
  workers: trainer.Workers = trainer.Workers()
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

  def check(self) -> None:
    """Trace a step and an evaluation of all lanes; nothing is computed."""
    self._shapes  # noqa: B018

  @functools.cached_property
  def _shapes(self):
    return trainer.shapes(
      self.program(_columns(self.lanes)), self.schedule, self.workers)

  def plan(self) -> xr.Dataset:
    """Return zeros with the shapes and coordinates of what `read` returns."""
    metrics = dict(self._shapes)
    rows = [{'step': step} | {
      name: np.zeros(x.shape) for name, x in metrics.items()}
      for step in range(0, self.schedule.steps + 1, self.schedule.every)]
    return self._dataset(self.lanes, rows, {})

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
    folder = workdir / self.name
    found = set()
    for block in self._blocks(workdir, allow_changed):
      if block.is_done:
        found |= set(map(blocks.name, block.lanes))
    lacking = [at for at in self.lanes if blocks.name(at) not in found]
    if not lacking:
      return ''
    first = ', '.join(f'{name}={lacking[0][name]}' for name in self.axes)
    return (f'{folder} lacks {len(lacking)} of {len(self.lanes)} lanes, the '
            f'first {first}')

  def run(self, workdir: pathlib.Path, stop: signals.Stop,
          allow_changed: Collection[str] = (),
          watch: Mapping[str, Any] | None = None) -> None:
    """Finish the blocks that hold wanted lanes; train the rest in a new one."""
    folder = workdir / self.name
    wanted = {blocks.name(at): at for at in self.lanes}
    for block in self._blocks(workdir, allow_changed):
      if not block.is_done:
        self._train(block, stop, allow_changed, watch)
      for at in block.lanes:
        wanted.pop(blocks.name(at), None)
    if wanted:
      # The first free name: a block may have been deleted by hand.
      names = (f'lanes_{i:02d}' for i in itertools.count())
      free = next(x for x in names if not (folder / x / 'lanes.json').exists())
      block = blocks.Block(
        folder / free, list(wanted.values()), self._definition)
      processes.by_first(records.write_whole, block.folder / 'lanes.json', {
        'defined_by': block.defined_by, 'lanes': block.lanes})
      self._train(block, stop, allow_changed, watch)

  def _blocks(self, workdir, allow_changed) -> list[blocks.Block]:
    """Find the blocks that hold wanted lanes."""
    also = ['num_workers'] if self.workers.allow_reshape else []
    return list(blocks.find(workdir / self.name, self.lanes, self._definition,
                            [*allow_changed, *also]))

  @property
  def _definition(self) -> dict[str, Any]:
    schedule = {'steps': self.schedule.steps, 'every': self.schedule.every}
    return json.loads(json.dumps({
      **self.defined_by, **schedule,
      'num_workers': self.workers.num_workers}))

  def _train(self, block, stop, allow_changed, watch):
    columns = _columns(block.lanes)
    state = trainer.train(
      self.program(columns), self.schedule, block.folder, workers=self.workers,
      stop=stop, config=block.defined_by, title=self.name,
      allow_changed=allow_changed, **watch or {})
    final = {} if self.finish is None else self.finish(state, columns)
    processes.by_first(records.write_whole, block.folder / 'done.json', {
      name: np.asarray(x, float).tolist() for name, x in final.items()})

  def final_state(self, workdir: pathlib.Path,
                  allow_changed: Collection[str] = ()) -> dict:
    """Read the last state, lanes leading in their order, to go on from there.

    For programs without private state. Zeros as long as lanes are missing, as
    while parts are planned.
    """
    shapes = trainer.state_shapes(
      self.program(_columns(self.lanes)), self.workers)
    sized = lambda make, size: jax.tree.map(
      lambda x: make((size, *x.shape[1:]), x.dtype), shapes)
    if self.missing(workdir, allow_changed):
      return sized(np.zeros, len(self.lanes))
    lanes, states = [], []
    for block in self._blocks(workdir, allow_changed):
      store = checkpoints.Checkpoints(block.folder / 'checkpoints')
      lanes += block.lanes
      states.append(store.restore(
        sized(jax.ShapeDtypeStruct, len(block.lanes)), self.schedule.steps
      ).state)
    place = {blocks.name(at): i for i, at in enumerate(lanes)}
    order = [place[blocks.name(at)] for at in self.lanes]
    return jax.tree.map(lambda *xs: np.concatenate(xs)[order], *states)

  def read(self, workdir: pathlib.Path) -> xr.Dataset:
    """Read every quantity [*axes, step, ...], by name and coordinate.

    NaN where a record lacks it; what `finish` returned has no step. Nothing may
    be `missing`.
    """
    lanes, rows, final = blocks.read(workdir / self.name, self.lanes)
    return self._dataset(lanes, rows, final)

  def _dataset(self, lanes, rows, final) -> xr.Dataset:
    """Order the lanes as the axes are, and label everything."""
    place = {blocks.name(at): i for i, at in enumerate(lanes)}
    order = [place[blocks.name(at)] for at in self.lanes]
    sizes = [len(values) for values in self.axes.values()]
    def labeled(name, x, dims):
      x = x[order].reshape(*sizes, *x.shape[1:])
      rest = x.ndim - len(sizes) - len(dims)
      more = self.dims.get(name) or [f'{name}_{i}' for i in range(rest)]
      return (*self.axes, *dims, *more), x

    names = dict.fromkeys(
      name for row in rows for name in row if name != 'step')
    variables = {}
    for name in names:
      some = next(np.asarray(row[name], float) for row in rows if name in row)
      nothing = np.full(some.shape, np.nan)
      x = np.array([np.asarray(row.get(name, nothing), float) for row in rows])
      variables[name] = labeled(name, np.moveaxis(x, 0, 1), ('step',))
    for name, x in final.items():
      variables[name] = labeled(name, np.asarray(x, float), ())
    coordinates = {name: list(values) for name, values in self.axes.items()}
    return xr.Dataset(
      variables, coordinates | {'step': [row['step'] for row in rows]})


def _columns(lanes: list[At]) -> dict[str, np.ndarray]:
  return {name: np.array([at[name] for at in lanes]) for name in lanes[0]}
