"""What a log held when a checkpoint was saved, and whether it still does.

A checkpoint keeps the *mark* of each log: how many bytes it had, and their
SHA-256. A finished log is *sealed*: its mark lies beside it, in the format of
`sha256sum`. A log that lost records is so never read as whole.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Collection
from typing import NamedTuple


class LogDamagedError(Exception):
  """A log is not what was written."""


class Mark(NamedTuple):
  """What a log held: `size` bytes, with this SHA-256."""

  size: int
  sha256: str


def seal_of(path: str | os.PathLike) -> pathlib.Path:
  """Return where the mark of a finished log lies."""
  return pathlib.Path(f'{os.fspath(path)}.sha256')


def write_seal(path: str | os.PathLike, mark: Mark) -> None:
  """Seal a log that is finished; `sha256sum -c` can check it too."""
  seal = seal_of(path)
  partial = seal.with_name(f'.{seal.name}.partial')
  partial.write_text(f'{mark.sha256}  {os.path.basename(path)}\n')
  os.replace(partial, seal)


def hash_of(path: str | os.PathLike) -> str:
  """Return the SHA-256 of a log: that of its seal, where it has one."""
  seal = seal_of(path)
  return (seal.read_text()[:64] if seal.exists()
          else hashlib.sha256(_data(path)).hexdigest())


def check_seal(path: str | os.PathLike) -> None:
  """Raise LogDamagedError where a sealed log was changed."""
  seal = seal_of(path)
  if not seal.exists():  # written before there were seals
    return
  data = _data(path)
  if hashlib.sha256(data).hexdigest() != seal.read_text()[:64]:
    raise LogDamagedError(
      f'{path} was changed after the run had ended ({_contents(data)}): put '
      f'the file back, or delete {os.path.dirname(path)} to train that again')


def check(path: str | os.PathLike, mark: Mark, step: int,
          expected: Collection[int]) -> None:
  """Raise LogDamagedError where the log lacks what it held.

  Args:
    path: Of the log.
    mark: What it held when the checkpoint was saved.
    step: Of the checkpoint.
    expected: The steps of the records that it held.
  """
  data = _data(path)
  held = data[:mark.size]
  if len(held) == mark.size and (
      hashlib.sha256(held).hexdigest() == mark.sha256):
    return
  found = _steps(data)
  lacking = [x for x in expected if x not in found]
  what = (f'no record of step {_few(lacking)}' if lacking else
          'its records were changed')
  raise LogDamagedError(
    f'{path} is not what it was when step {step} was saved: {what}; put the '
    f'file back, or delete {os.path.dirname(path)} to train that again')


def _data(path):
  try:
    with open(path, 'rb') as file:
      return file.read()
  except FileNotFoundError:
    return b''


def _steps(data):
  found = []
  for line in data.splitlines():
    try:
      found.append(json.loads(line)['step'])
    except (ValueError, TypeError, KeyError):
      continue
  return found


def _contents(data):
  steps = _steps(data)
  return f'it holds {len(steps)} records' + (
    f', of steps {steps[0]} to {steps[-1]}' if steps else '')


def _few(steps):
  return ', '.join(map(str, steps[:5])) + (
    f' and {len(steps) - 5} more' if len(steps) > 5 else '')
