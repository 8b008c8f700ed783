"""What a run says of its batch size at its end, where it tracks moments."""

import contextlib
import pathlib
import sys
from typing import Any

import jax
import numpy as np

import gradiv
from experiments.engine import records
from gradiv.diversity import TrackMomentsState

FILE = 'advice.json'


def first_of(kind: type, opt_state: Any) -> Any:
  """Find the first state of a transformation; None where there is none."""
  is_state = lambda x: isinstance(x, kind)
  return next(filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)),
              None)


def first_tracker(opt_state: Any) -> TrackMomentsState | None:
  """Find the first state of `track_moments`; None where there is none."""
  return first_of(TrackMomentsState, opt_state)


def advice(state: TrackMomentsState | None, batch_size: int
           ) -> gradiv.diversity.Advice | None:
  """Advise on a batch size by what an optimizer has tracked.

  Args:
    state: Of the end of a run, with any leading axes: of lanes, it is the
      first.
    batch_size: Examples of one update, of all workers together.

  Returns:
    None where no step was tracked, such as with one worker.
  """
  if state is None:
    return None
  # On this host: of several processes, the first one alone reads it.
  state = jax.tree.map(np.asarray, state)
  while state.level.ndim:
    state = jax.tree.map(lambda x: x[0], state)
  if not state.averages.count.any():
    return None
  return gradiv.advise(gradiv.read_moments(state), batch_size)


def say(workdir: pathlib.Path, title: str, state: TrackMomentsState | None,
        batch_size: int, lanes: int) -> None:
  """Print what `advice` says, and keep it in `FILE` for the report."""
  found = advice(state, batch_size) if batch_size else None
  if found is None:
    return
  print(f'{title}{f", training 1 of {lanes}" if lanes > 1 else ""}: {found}',
        file=sys.stderr, flush=True)
  with contextlib.suppress(OSError):  # the run is whole without it
    records.write_whole(workdir / FILE, {
      'sentence': str(found), 'batch_size': batch_size, 'lanes': lanes})
