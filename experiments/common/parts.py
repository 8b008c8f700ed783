"""Parts of a study: lanes that are trained together, or a computation.

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments.engine import records, signals, trainer

# A lane: its coordinates, and what else its numbers depend on.
At = dict[str, Any]


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
    length = len(self.lanes)
    rows = [{'step': step} | {
      name: np.zeros(x.shape) for name, x in metrics.items()}
      for step in range(0, self.schedule.steps + 1, self.schedule.every)]
    return self._dataset(self.lanes, rows, {}, length)

  def run(self, workdir: pathlib.Path, stop: signals.Stop) -> None:
    """Finish the blocks that hold wanted lanes; train the rest in a new one."""
    folder = workdir / self.name
    missing = {_name(at): at for at in self.lanes}
    for block in _blocks(folder):
      found = json.loads((block / 'lanes.json').read_text())
      wanted = [at for at in found['lanes'] if _name(at) in missing]
      if wanted:
        trainer.check_config(found['defined_by'], self._definition, folder)
        if not (block / 'done.json').exists():
          self._train(block, found['lanes'], stop)
        for at in wanted:
          del missing[_name(at)]
    if missing:
      block = folder / f'lanes_{len(_blocks(folder)):02d}'
      records.write_whole(block / 'lanes.json', {
        'defined_by': self._definition, 'lanes': list(missing.values())})
      self._train(block, list(missing.values()), stop)

  @property
  def _definition(self) -> dict[str, Any]:
    schedule = {'steps': self.schedule.steps, 'every': self.schedule.every}
    return json.loads(json.dumps({
      **self.defined_by, **schedule,
      'num_workers': self.workers.num_workers}))

  def _train(self, block, lanes, stop):
    columns = _columns(lanes)
    state = trainer.train(
      self.program(columns), self.schedule, block, workers=self.workers,
      stop=stop, config=self._definition, title=self.name)
    final = {} if self.finish is None else self.finish(state, columns)
    records.write_whole(block / 'done.json', {
      name: np.asarray(x, float).tolist() for name, x in final.items()})

  def read(self, workdir: pathlib.Path) -> xr.Dataset:
    """Read every quantity [*axes, step, ...], by name and coordinate.

    NaN where a record lacks it; what `finish` returned has no step.

    Raises:
      FileNotFoundError: Where lanes are missing or not finished.
    """
    folder = workdir / self.name
    lanes, rows, final = [], None, {}
    for block in _blocks(folder):
      if not (block / 'done.json').exists():
        continue
      more = json.loads((block / 'lanes.json').read_text())['lanes']
      new = records.read(block / 'metrics.jsonl')
      last = json.loads((block / 'done.json').read_text())
      keep = [i for i, at in enumerate(more)
              if _name(at) not in map(_name, lanes)]
      lanes += [more[i] for i in keep]
      picked = [{name: x if name == 'step' else [x[i] for i in keep]
                 for name, x in row.items()} for row in new]
      rows = picked if rows is None else [
        {name: x if name == 'step' else x + after[name]
         for name, x in row.items()} for row, after in zip(rows, picked)]
      for name, x in last.items():
        final.setdefault(name, []).extend(x[i] for i in keep)
    known = set(map(_name, lanes))
    missing = [at for at in self.lanes if _name(at) not in known]
    if missing:
      raise FileNotFoundError(
        f'{folder} lacks {len(missing)} of {len(self.lanes)} lanes, the first '
        f'{missing[0]}: run without --report')
    return self._dataset(lanes, rows, final, len(lanes))

  def _dataset(self, lanes, rows, final, length) -> xr.Dataset:
    """Order the lanes as the axes are, and label everything."""
    place = {_name(at): i for i, at in enumerate(lanes)}
    order = [place[_name(at)] for at in self.lanes]
    sizes = [len(values) for values in self.axes.values()]
    def labelled(name, x, dims):
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
      variables[name] = labelled(name, np.moveaxis(x, 0, 1), ('step',))
    for name, x in final.items():
      variables[name] = labelled(name, np.asarray(x, float), ())
    coordinates = {name: list(values) for name, values in self.axes.items()}
    return xr.Dataset(
      variables, coordinates | {'step': [row['step'] for row in rows]})


@dataclasses.dataclass(frozen=True)
class Computed:
  """A computation of its own, whose JSON result is kept whole.

  Attributes:
    name: Of its file below the workdir, without `.json`.
    compute: Takes a `signals.Stop` to ask now and then; returns what JSON can
      hold.
    defined_by: All that the numbers depend on.
  """

  name: str
  compute: Callable[[signals.Stop], Any]
  defined_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def check(self) -> None:
    """There are no shapes to check."""

  def plan(self) -> None:
    """Nothing is known before it is computed."""

  def run(self, workdir: pathlib.Path, stop: signals.Stop) -> None:
    """Compute what is not there."""
    path = workdir / f'{self.name}.json'
    definition = json.loads(json.dumps(dict(self.defined_by)))
    if path.exists():
      found = json.loads(path.read_text())['defined_by']
      trainer.check_config(found, definition, path)
      return
    records.write_whole(
      path, {'defined_by': definition, 'result': self.compute(stop)})

  def read(self, workdir: pathlib.Path) -> Any:
    """Read the result."""
    path = workdir / f'{self.name}.json'
    if not path.exists():
      raise FileNotFoundError(f'{path} is missing: run without --report')
    return json.loads(path.read_text())['result']


def at_each(lanes: dict[str, np.ndarray]) -> list[At]:
  """Turn columns {name: [L]} back into a list of lanes."""
  return [dict(zip(lanes, values)) for values in zip(*lanes.values())]


def _columns(lanes: list[At]) -> dict[str, np.ndarray]:
  return {name: np.array([at[name] for at in lanes]) for name in lanes[0]}


def _name(at: At) -> str:
  """Write a lane as text; equal lanes give equal text."""
  return json.dumps(at, sort_keys=True)


def _blocks(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path.parent for path in folder.glob('lanes_*/lanes.json'))
