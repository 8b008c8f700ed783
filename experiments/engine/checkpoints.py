"""Checkpoints of one run: which are kept, and which is read back.

A kill at any moment leaves the older checkpoints and at most a folder that
nobody takes for one. An older checkpoint stands in, loudly, for one that is
damaged; what lies in the folder of each is told by `committing`.

In a job of several processes all save and restore together. Each writes the
shards that it holds, and process 0 all else.
"""

import operator
import os
import pathlib
import re
import shutil
import sys
from typing import Any

from experiments.engine import committing, leaves, processes
from experiments.engine.committing import (
  CheckpointError as CheckpointError,
  OtherStateError as OtherStateError,
  Restored as Restored,
)


class Checkpoints:
  """The checkpoints of one run, in one folder.

  >>> import tempfile, jax.numpy as jnp
  >>> store = Checkpoints(tempfile.mkdtemp())
  >>> store.restore({'w': jnp.zeros(2)}) is None
  True
  >>> store.save(3, {'w': jnp.ones(2)}, {'seed': 0})
  >>> store.restore({'w': jnp.zeros(2)})
  Restored(step=3, state={'w': Array([1., 1.], dtype=float32)},
           meta={'seed': 0})
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    """Use a folder, which is made by the first save.

    Args:
      directory: of the checkpoints of one run and nothing else.
      keep: how many of the newest to keep; the newest one with finite
        parameters is kept in addition.
    """
    if keep < 1:
      raise ValueError(f'keep is {keep}; allowed: from 1 on')
    self.directory = pathlib.Path(directory).absolute()
    self._keep = keep
    self._reported = set()

  def steps(self) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order."""
    return sorted(self._committed())

  def has_finite(self) -> bool:
    """Tell whether training can go on from one of them."""
    return any(map(committing.claims_finite, self._committed().values()))

  def save(self, step: int, state: Any, meta: dict[str, Any], *,
           finite: bool | None = None) -> None:
    """Write a checkpoint; return when the disk holds it.

    Args:
      step: checkpoints of later steps are set aside: their history ended.
      state: a tree of arrays, typed keys and numbers.
      meta: anything that JSON can hold.
      finite: whether training can go on from here. None looks at all leaves
        below a 'params', or at all there are where nothing has that name.
    """
    if (step := operator.index(step)) < 0:
      raise ValueError(f'step is {step}; allowed: from 0 on')
    final = self.directory / f'step_{step:08d}'
    partial = committing.renamed(final, 'partial')
    try:
      with processes.watched():
        flat = leaves.to_host(state)
        if finite is None:
          finite = leaves.are_finite(flat)
        processes.by_first(self._make_room, partial, flat)
        leaves.write_arrays(partial / 'state', flat)
        processes.by_first(
          committing.finish, partial, final, step, flat, meta, finite)
    except BaseException as error:
      if processes.is_first():
        shutil.rmtree(partial, ignore_errors=True)
      is_of_saving = isinstance(error, Exception) and not isinstance(
        error, processes.ProcessLostError)
      if not is_of_saving:
        raise
      raise CheckpointError(
          f'{final}: not saved, older checkpoints are untouched: {error}'
      ) from error
    try:
      processes.by_first(self._rotate, step)
    except OSError as error:
      _complain(f'{self.directory}: old checkpoints stay: {error}')

  def restore(self, template: Any, step: int | None = None) -> Restored | None:
    """Return the newest checkpoint that is whole, or None if there is none.

    Several processes get the same, each with all of it.

    Args:
      template: a tree of the structure, shapes and dtypes of the state, such
        as `jax.eval_shape` makes. Arrays come back where it has arrays of
        JAX (or their shapes), NumPy's and Python's numbers where it has those.
        Or a function that takes the meta and returns such a tree.
      step: this one, and no older one in its place.
    """
    restored = self._restore(template, step)
    found = -1 if restored is None else restored.step
    newest, oldest = processes.largest(found, -found)
    if newest != -oldest:
      raise CheckpointError(
        f'{self.directory}: this process finds step {found} there, others find '
        f'{-oldest} to {newest}: all must see the same folder')
    return restored

  def _restore(self, template, step):
    self._report_partials()
    committed = self._committed()
    if step is not None and step not in committed:
      raise CheckpointError(f'{self.directory}: no checkpoint of step {step}; '
                            f'there are {sorted(committed) or "none"}')
    candidates = sorted(committed, reverse=True) if step is None else [step]
    for candidate in candidates:
      path = committed[candidate]
      try:
        restored, finite = committing.read(path, candidate, template)
      except committing.DamagedError as error:
        _complain(f'{path} is damaged: {error}')
        continue
      if candidate != candidates[0]:
        _complain(f'{path} is whole: going back to step {candidate}')
      if not finite:
        _complain(f'{path} holds parameters that are not finite')
      return restored
    if candidates:
      # Never from scratch: that would throw away the run in silence.
      raise CheckpointError(f'{self.directory}: all that was asked for is '
                            f'damaged: steps {candidates}')
    return None

  def _make_room(self, partial, flat) -> None:
    self.directory.mkdir(parents=True, exist_ok=True)
    self._report_partials()
    self.sweep()
    committing.check_room(self.directory, flat)
    partial.mkdir()

  def _committed(self) -> dict[int, pathlib.Path]:
    """Return the folder of each step; an old one where no new one came."""
    found = {}
    for path in sorted(self.directory.glob('step_*')):
      if match := re.fullmatch(r'step_(\d{8,})(\.old)?', path.name):
        found.setdefault(int(match[1]), path)
    return found

  def _report_partials(self) -> None:
    for path in self.directory.glob('step_*.partial'):
      if path not in self._reported:
        self._reported.add(path)
        _complain(f'{path} was never finished; it is ignored now, and removed '
                  'by the next save')

  def _rotate(self, newest: int) -> None:
    """Remove what is superseded, now that the newest is safe."""
    committed = self._committed()
    for step in [step for step in committed if step > newest]:
      aside = committing.renamed(
        self.directory / f'step_{step:08d}', 'abandoned')
      shutil.rmtree(aside, ignore_errors=True)
      committed.pop(step).rename(aside)
      _complain(f'{aside} is later than step {newest} where the run is now: '
                'set aside')
    steps = sorted(committed, reverse=True)
    keep = set(steps[:self._keep])
    finite = [s for s in steps if committing.claims_finite(committed[s])]
    keep.update(finite[:1])
    for step in set(steps) - keep:
      # Renamed first: a kill half-way must not leave a damaged checkpoint.
      committed[step].rename(committing.renamed(committed[step], 'removed'))
    self.sweep()

  def sweep(self) -> None:
    """Remove folders that nothing can need; they take room on the disk."""
    for path in self.directory.glob('step_*.*'):
      superseded = path.suffix == '.old' and path.with_suffix('').exists()
      if superseded or path.suffix in ('.partial', '.removed'):
        shutil.rmtree(path, ignore_errors=True)


def _complain(message: str) -> None:
  if processes.is_first():
    print(f'checkpoints: {message}', file=sys.stderr, flush=True)
