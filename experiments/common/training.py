"""Trains the lanes of a part that are not there yet, block by block."""

import itertools
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from experiments.common import blocks
from experiments.common.blocks import At
from experiments.engine import (
  checkpoints,
  processes,
  records,
  signals,
  states,
  trainer,
)


def shapes(part: Any) -> dict:
  """Trace a step and an evaluation of all lanes; return what is recorded."""
  return states.shapes(
    part.program(_columns(part.lanes)), part.schedule, part.workers)


def run(part: Any, workdir: pathlib.Path, stop: signals.Stop,
        allow_changed: Collection[str] = (),
        watch: Mapping[str, Any] | None = None) -> None:
  """Finish the blocks that hold wanted lanes; train the rest in a new one.

  Args:
    part: A `parts.Trained`.
    workdir: The folder of the run.
    stop: Raised by a signal.
    allow_changed: Names in the definition that may differ.
    watch: Options of `trainer.train` that change no number.
  """
  folder = workdir / part.name
  wanted = dict(zip(part.names, part.lanes))
  for block in part.find_blocks(workdir, allow_changed):
    if not block.is_done:
      _train(part, block, stop, allow_changed, watch)
    for name in block.names:
      wanted.pop(name, None)
  if wanted:
    # The first free name: a block may have been deleted by hand.
    names = (f'lanes_{i:02d}' for i in itertools.count())
    free = next(x for x in names if not (folder / x / 'lanes.json').exists())
    block = blocks.Block(folder / free, list(wanted.values()), part.definition)
    processes.by_first(records.write_whole, block.folder / 'lanes.json', {
      'defined_by': block.defined_by, 'lanes': block.lanes})
    _train(part, block, stop, allow_changed, watch)


def _train(part, block, stop, allow_changed, watch):
  columns = _columns(block.lanes)
  state = trainer.train(
    part.program(columns), part.schedule, block.folder, workers=part.workers,
    stop=stop, config=block.defined_by, title=part.name,
    allow_changed=allow_changed, **watch or {})
  final = {} if part.finish is None else part.finish(state, columns)
  processes.by_first(records.write_whole, block.folder / 'done.json', {
    name: np.asarray(x, float).tolist() for name, x in final.items()})


def final_state(part: Any, workdir: pathlib.Path,
                allow_changed: Collection[str] = ()) -> dict:
  """Read the last state, lanes leading in their order, to go on from there.

  For programs without private state. Zeros as long as lanes are missing, as
  while parts are planned.
  """
  template = states.state_shapes(
    part.program(_columns(part.lanes)), part.workers)
  sized = lambda make, size: jax.tree.map(
    lambda x: make((size, *x.shape[1:]), x.dtype), template)
  if part.missing(workdir, allow_changed):
    return sized(np.zeros, len(part.lanes))
  names, found = [], []
  for block in part.find_blocks(workdir, allow_changed):
    store = checkpoints.Checkpoints(block.folder / 'checkpoints')
    names += block.names
    found.append(store.restore(
      sized(jax.ShapeDtypeStruct, len(block.lanes)), part.schedule.steps
    ).state)
  place = {name: i for i, name in enumerate(names)}
  order = [place[name] for name in part.names]
  return jax.tree.map(lambda *xs: np.concatenate(xs)[order], *found)


def _columns(lanes: list[At]) -> dict[str, np.ndarray]:
  return {name: np.array([at[name] for at in lanes]) for name in lanes[0]}
