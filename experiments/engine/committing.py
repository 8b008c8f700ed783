"""One checkpoint: a folder that is whole, or not there.

Orbax writes the arrays into `step_00000042.partial`; a manifest with the
SHA-256 of each file joins them; one rename makes them `step_00000042`. What is
read back is checked against the manifest first.

  step_00000042/state/         the arrays, in the format of orbax
  step_00000042/tree.json      path, shape and dtype of each leaf
  step_00000042/meta.json      what the caller wants to know again
  step_00000042/manifest.json  step, finite or not, size and hash of each file
"""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from experiments.engine import leaves

# Metadata of one array and of one checkpoint, in bytes, from above.
_BYTES_PER_LEAF = 4096
_BYTES_PER_CHECKPOINT = 65536
_MAX_NAMED = 5  # of the leaves that differ


class CheckpointError(Exception):
  """A checkpoint could not be written, or none could be read."""


class OtherStateError(CheckpointError):
  """A checkpoint holds other arrays than the program has.

  Attributes:
    problems: A line for each leaf that differs, see `leaves.differences`.
  """

  def __init__(self, path: pathlib.Path, problems: list[str]):
    self.problems = problems
    shown = problems[:_MAX_NAMED]
    if more := len(problems) - len(shown):
      shown.append(f'and {more} more')
    super().__init__(f'{path} does not fit: {"; ".join(shown)}')


class DamagedError(Exception):
  """What is on the disk is not what was written."""


class Restored(NamedTuple):
  """A checkpoint: its step, the state, and what was saved beside it."""
  step: int
  state: Any
  meta: dict[str, Any]


def renamed(path: pathlib.Path, suffix: str) -> pathlib.Path:
  """Return the folder's name while it does not count, or no more."""
  return path.with_name(f'{path.name}.{suffix}')


def check_room(directory, flat) -> None:
  """Refuse a disk on which the leaves have no room."""
  needed = sum(leaf.value.nbytes + _BYTES_PER_LEAF for leaf in flat)
  needed += _BYTES_PER_CHECKPOINT
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise CheckpointError(f'disk full: {needed} bytes are needed, '
                          f'{free} are free in {directory}')


def finish(path, final, step, flat, meta, finite) -> None:
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
    # Between the two renames the old one counts, see `Checkpoints`.
    old = renamed(final, 'old')
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


def claims_finite(path: pathlib.Path) -> bool:
  """Return what the manifest says of the state; False without a manifest."""
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
    raise DamagedError(f'manifest.json: {error!r}') from error
  for name, entry in files.items():
    try:
      size, digest = entry
      if (found := (path / name).stat().st_size) != size:
        raise ValueError(f'{found} bytes instead of {size}')
      if _hash(path / name) != digest:
        raise ValueError('its SHA-256 is not that of the manifest')
    except (OSError, ValueError, TypeError) as error:
      raise DamagedError(f'{name}: {error}') from error
  return finite


def read(path, step, template) -> tuple[Restored, bool]:
  """Read a checkpoint; raise DamagedError or, for the template, ours."""
  finite = _verify(path, step)
  table = json.loads((path / 'tree.json').read_text())
  meta = json.loads((path / 'meta.json').read_text())
  if callable(template):
    template = template(meta)
  if problems := leaves.differences(template, table):
    raise OtherStateError(path, problems)
  try:
    arrays = leaves.read_arrays(path / 'state', table)
  except Exception as error:
    raise DamagedError(f'state: orbax cannot read it: {error}') from error
  return Restored(step, leaves.like(template, arrays), meta), finite
