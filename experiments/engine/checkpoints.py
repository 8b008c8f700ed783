"""Checkpoints that are whole, or not there.

Orbax writes the arrays into `step_00000042.partial`; a manifest with the
SHA-256 of each file joins them; one rename makes them `step_00000042`. A kill
at any moment leaves the older checkpoints and at most a folder that nobody
takes for one. What is read back is checked against the manifest first, and an
older checkpoint stands in, loudly, for one that is damaged.

  step_00000042/state/         the arrays, in the format of orbax
  step_00000042/tree.json      path, shape and dtype of each leaf
  step_00000042/meta.json      what the caller wants to know again
  step_00000042/manifest.json  step, finite or not, size and hash of each file

In a job of several processes all save and restore together. Each writes the
shards that it holds, and process 0 all else.
"""

import hashlib
import json
import operator
import os
import pathlib
import re
import shutil
import sys
from typing import Any, NamedTuple

from experiments.engine import leaves, processes

# Metadata of one array and of one checkpoint, in bytes, from above.
_BYTES_PER_LEAF = 4096
_BYTES_PER_CHECKPOINT = 65536


class CheckpointError(Exception):
  """A checkpoint could not be written, or none could be read."""


class _DamagedError(Exception):
  """What is on the disk is not what was written."""


class Restored(NamedTuple):
  """A checkpoint: its step, the state, and what was saved beside it."""
  step: int
  state: Any
  meta: dict[str, Any]


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
    partial = _renamed(final, 'partial')
    try:
      with processes.watched():
        flat = leaves.to_host(state)
        if finite is None:
          finite = leaves.are_finite(flat)
        processes.by_first(self._make_room, partial, flat)
        leaves.write_arrays(partial / 'state', flat)
        processes.by_first(_finish, partial, final, step, flat, meta, finite)
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
        restored, finite = _read(path, candidate, template)
      except _DamagedError as error:
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
    self._sweep()
    _check_room(self.directory, flat)
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
      aside = _renamed(self.directory / f'step_{step:08d}', 'abandoned')
      shutil.rmtree(aside, ignore_errors=True)
      committed.pop(step).rename(aside)
      _complain(f'{aside} is later than step {newest} where the run is now: '
                'set aside')
    steps = sorted(committed, reverse=True)
    keep = set(steps[:self._keep])
    keep.update([s for s in steps if _claims_finite(committed[s])][:1])
    for step in set(steps) - keep:
      # Renamed first: a kill half-way must not leave a damaged checkpoint.
      committed[step].rename(_renamed(committed[step], 'removed'))
    self._sweep()

  def _sweep(self) -> None:
    """Remove folders that nothing can need; they take room on the disk."""
    for path in self.directory.glob('step_*.*'):
      superseded = path.suffix == '.old' and path.with_suffix('').exists()
      if superseded or path.suffix in ('.partial', '.removed'):
        shutil.rmtree(path, ignore_errors=True)


def _renamed(path: pathlib.Path, suffix: str) -> pathlib.Path:
  return path.with_name(f'{path.name}.{suffix}')


def _check_room(directory, flat) -> None:
  needed = sum(leaf.value.nbytes + _BYTES_PER_LEAF for leaf in flat)
  needed += _BYTES_PER_CHECKPOINT
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise CheckpointError(f'disk full: {needed} bytes are needed, '
                          f'{free} are free in {directory}')


def _finish(path, final, step, flat, meta, finite) -> None:
  """Write what joins the arrays, down to the disk, and commit."""
  table = [leaf.description for leaf in flat]
  (path / 'tree.json').write_text(json.dumps(table, indent=1))
  (path / 'meta.json').write_text(json.dumps(meta, indent=1))
  files = {
      file.relative_to(path).as_posix(): [file.stat().st_size, _sync(file)]
      for file in sorted(path.rglob('*')) if file.is_file()}
  manifest = path / 'manifest.json'
  manifest.write_text(json.dumps(
      {'step': step, 'finite': bool(finite), 'files': files}, indent=1))
  _sync(manifest)
  for folder in [path, *(p for p in path.rglob('*') if p.is_dir())]:
    _sync(folder)
  _commit(path, final)


def _commit(partial: pathlib.Path, final: pathlib.Path) -> None:
  """Give a checkpoint its name; from here on it counts."""
  if final.exists():
    # Between the two renames the old one counts, see _committed.
    old = _renamed(final, 'old')
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
  partial.rename(final)
  _sync(final.parent)


def _sync(path: pathlib.Path) -> str | None:
  """Wait until the disk holds a file or folder; return the hash of a file."""
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)
  return None if path.is_dir() else _hash(path)


def _hash(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _claims_finite(path: pathlib.Path) -> bool:
  try:
    return json.loads((path / 'manifest.json').read_text())['finite'] is True
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _verify(path: pathlib.Path, step: int) -> bool:
  """Check each file; return whether the state claims to be finite."""
  try:
    manifest = json.loads((path / 'manifest.json').read_text())
    files = dict(manifest['files'])
    finite = manifest['finite']
    if manifest['step'] != step or not {'tree.json', 'meta.json'} <= set(files):
      raise ValueError('belongs to another checkpoint')
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _DamagedError(f'manifest.json: {error!r}') from error
  for name, entry in files.items():
    try:
      size, digest = entry
      if (found := (path / name).stat().st_size) != size:
        raise ValueError(f'{found} bytes instead of {size}')
      if _hash(path / name) != digest:
        raise ValueError('its SHA-256 is not that of the manifest')
    except (OSError, ValueError, TypeError) as error:
      raise _DamagedError(f'{name}: {error}') from error
  return finite


def _read(path, step, template) -> tuple[Restored, bool]:
  """Read a checkpoint; raise _DamagedError or, for the template, ours."""
  finite = _verify(path, step)
  table = json.loads((path / 'tree.json').read_text())
  meta = json.loads((path / 'meta.json').read_text())
  if callable(template):
    template = template(meta)
  if problems := leaves.differences(template, table):
    raise CheckpointError(f'{path} does not fit: {"; ".join(problems)}')
  try:
    arrays = leaves.read_arrays(path / 'state', table)
  except Exception as error:
    raise _DamagedError(f'state: orbax cannot read it: {error}') from error
  return Restored(step, leaves.like(template, arrays), meta), finite


def _complain(message: str) -> None:
  if processes.is_first():
    print(f'checkpoints: {message}', file=sys.stderr, flush=True)
