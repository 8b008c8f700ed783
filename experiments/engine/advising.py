"""What a run says of its batch size at its end, where it tracks moments."""

from typing import Any

import jax
import numpy as np

import gradiv
from gradiv.diversity import TrackMomentsState


def advice(opt_state: Any, batch_size: int) -> gradiv.diversity.Advice | None:
  """Advise on a batch size by what an optimizer has tracked.

  Of several states of `track_moments` it is the first; of lanes, likewise.

  Args:
    opt_state: Of the end of a run, with any leading axes.
    batch_size: Examples of one update, of all workers together.

  Returns:
    None where no step was tracked, such as with one worker.
  """
  is_state = lambda x: isinstance(x, TrackMomentsState)
  states = filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state))
  if (state := next(states, None)) is None:
    return None
  # On this host: of several processes, the first one alone reads it.
  state = jax.tree.map(np.asarray, state)
  while state.level.ndim:
    state = jax.tree.map(lambda x: x[0], state)
  if not state.averages.count.any():
    return None
  return gradiv.advise(gradiv.read_moments(state), batch_size)


def line(title: str, opt_state: Any, batch_size: int, lanes: int) -> str:
  """Write what `advice` says as a line; empty where it says nothing."""
  found = advice(opt_state, batch_size) if batch_size else None
  if found is None:
    return ''
  return f'{title}{f", lane 1 of {lanes}" if lanes > 1 else ""}: {found}'
