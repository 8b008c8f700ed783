"""Metrics as JSON lines, keyed by step.

One record a line, `{"step": 7, "loss": 0.25}`, and nothing in it that differs
between two equal runs: no clock, floats as the shortest decimal that names the
float32. A resumed run cuts the file back to the step that it restored, so that
the whole file reads as if nothing had happened. On a full disk records wait in
memory; no checkpoint is saved while they do (see `sealing`).
"""

import collections
import errno
import hashlib
import json
import math
import operator
import os
import sys
from typing import Any

import numpy as np

from experiments.engine import sealing

# Out of space, over a quota, past the largest file: all may pass by waiting.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The lines that wait in memory for room on the disk.
_MAX_WAITING = 10_000
_INFINITIES = {'inf': math.inf, '-inf': -math.inf}


class Records:
  """A log of one run.

  >>> import pathlib, tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / 'metrics.jsonl'
  >>> with Records(path) as log:
  ...   log.write(1, loss=np.float32(0.5), gain=float('inf'))
  ...   log.write(2, loss=float('nan'), counts=np.arange(2))
  >>> print(path.read_text().strip())
  {"step": 1, "loss": 0.5, "gain": "inf"}
  {"step": 2, "loss": null, "counts": [0, 1]}
  >>> with Records(path, keep_through=1):
  ...   read(path)
  [{'step': 1, 'loss': 0.5, 'gain': inf}]
  """

  def __init__(self, path: str | os.PathLike, *,
               keep_through: int | None = None,
               mark: sealing.Mark | None = None):
    """Open the log, and cut it back to what a resumed run shall keep.

    Args:
      path: of the file; its folder is made where it is missing.
      keep_through: drop each record of a later step; -1 drops all of them,
        None keeps all. A last line that was cut off is dropped in any case.
      mark: drop all behind it, whatever it is; in place of keep_through. See
        `sealing.check`.
    """
    self._path = os.fspath(path)
    self._waiting = collections.deque()
    self._num_lost = 0
    self._has_complained = False
    os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
    sealing.seal_of(self._path).unlink(missing_ok=True)
    if mark is None:
      _cut_back(self._path, keep_through)
    else:
      os.truncate(self._path, mark.size)
    self._file = os.open(
        self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    self._size = os.fstat(self._file).st_size
    self._hash = hashlib.sha256(os.pread(self._file, self._size, 0))

  def write(self, step: int, **values: Any) -> None:
    """Append the record of a step.

    Takes numbers, strings, None, arrays and nested lists or dicts of them.
    NaN becomes null, the infinities become the strings "inf" and "-inf".
    """
    if self._file is None:
      raise ValueError(f'{self._path} is closed')
    if (step := operator.index(step)) < 0:
      raise ValueError(f'step is {step}; allowed: from 0 on')
    record = {'step': step}
    for name, value in values.items():
      record[name] = _plain(name, value)
    self._waiting.append(json.dumps(record, allow_nan=False).encode() + b'\n')
    self._flush()

  def sync(self) -> None:
    """Wait until the disk holds all; call this before a checkpoint commits."""
    self._flush()
    try:
      os.fsync(self._file)
    except OSError as error:
      self._tolerate(error)

  def mark(self) -> sealing.Mark | None:
    """Return what the file holds, or None if a record is not in it."""
    if self._waiting or self._num_lost:
      return None
    return sealing.Mark(self._size, self._hash.hexdigest())

  def seal(self) -> None:
    """Say that the log is finished; see `sealing`."""
    if mark := self.mark():
      sealing.write_seal(self._path, mark)

  def close(self) -> None:
    """Write what still waits and close the file."""
    if self._file is None:
      return
    try:
      self.sync()
      if missing := self._num_lost + len(self._waiting):
        _complain(f'{self._path}: {missing} records were lost')
    finally:
      os.close(self._file)
      self._file = None

  def __enter__(self) -> 'Records':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _flush(self) -> None:
    try:
      while self._waiting:
        self._append(self._waiting[0])
        self._waiting.popleft()
    except OSError as error:
      self._tolerate(error)
    while len(self._waiting) > _MAX_WAITING:
      self._waiting.popleft()
      self._num_lost += 1

  def _append(self, line: bytes) -> None:
    """Write a line wholly, or leave the file as it was and raise."""
    rest = line
    try:
      # On a disk that is nearly full a write may take a part and not fail.
      while rest:
        rest = rest[os.write(self._file, rest):]
    except OSError:
      os.ftruncate(self._file, self._size)
      raise
    self._size += len(line)
    self._hash.update(line)

  def _tolerate(self, error: OSError) -> None:
    """Say once that the disk is full; raise whatever else went wrong."""
    if error.errno not in _FULL:
      raise error
    if not self._has_complained:
      self._has_complained = True
      _complain(f'{self._path}: {error.strerror}; training goes on, up to '
                f'{_MAX_WAITING} records wait in memory')


def write_whole(path: str | os.PathLike, value: Any) -> None:
  """Write a JSON file of its own: whole, or not at all."""
  path = os.fspath(path)
  folder, name = os.path.split(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  partial = os.path.join(folder, f'.{name}.partial')
  with open(partial, 'w') as file:
    json.dump(value, file, indent=1)
  os.replace(partial, path)


def read_whole(path: str | os.PathLike) -> Any:
  """Return what `write_whole` wrote.

  Raises:
    LogDamagedError: Where the file is no JSON any more.
  """
  with open(path, 'rb') as file:
    data = file.read()
  try:
    return json.loads(data)
  except ValueError as error:
    raise sealing.LogDamagedError(
      f'{os.fspath(path)} is damaged ({error}): put the file back, or delete '
      'it to compute that again') from error


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Return the records of a file, in its order.

  "inf" and "-inf" become floats again and null stays None. A last line that
  was cut off is left out; any other bad line is a ValueError. A finished log
  that was changed is a `sealing.LogDamagedError`.
  """
  sealing.check_seal(path)
  with open(path, 'rb') as file:
    return [record for record, _ in _parse(path, file.read())]


def _parse(path, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
  """Return each record with its line, but for a last one that was cut off."""
  *lines, tail = data.split(b'\n')
  parsed = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
      operator.index(record['step'])
    except (ValueError, TypeError, KeyError) as error:
      # A power cut may leave the last line with a hole in place of its middle.
      if number == len(lines) and not tail:
        break
      raise ValueError(f'{os.fspath(path)}:{number}: no record: '
                       f'{line[:80]!r}') from error
    if b'inf"' in line:
      record = _infinite(record)
    parsed.append((record, line + b'\n'))
  return parsed


def _cut_back(path: str, keep_through: int | None) -> None:
  """Drop the records of later steps and a last line that was cut off."""
  if not os.path.exists(path):
    return
  with open(path, 'rb') as file:
    data = file.read()
  kept = b'' if keep_through == -1 else b''.join(
      line for record, line in _parse(path, data)
      if keep_through is None or record['step'] <= keep_through)
  if data.startswith(kept):
    # What goes is the end: one call, which needs no room on a full disk.
    if len(kept) < len(data):
      os.truncate(path, len(kept))
    return
  temporary = f'{path}.partial'
  with open(temporary, 'wb') as file:
    file.write(kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _plain(name: str, value: Any) -> Any:
  """Return the value as JSON can hold it; raise TypeError if it cannot."""
  if value is None or isinstance(value, (bool, str, int)):
    return value
  if isinstance(value, float):
    return _plain_float(value)
  if isinstance(value, dict):
    return {str(k): _plain(name, v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(name, v) for v in value]
  try:
    array = np.asarray(value)
    # Kind V are the types that JAX adds to NumPy, such as bfloat16.
    if array.dtype.kind in 'fV':
      array = array.astype(np.float64)
    elif array.dtype.kind not in 'biu':
      raise TypeError(f'dtype {array.dtype}')
  except (TypeError, ValueError) as error:
    raise TypeError(
        f'{name} is {type(value).__name__} {value!r:.80}; allowed: numbers, '
        f'strings, None, arrays, lists and dicts of them') from error
  return _plain(name, array.tolist())


def _plain_float(value: float) -> float | str | None:
  if math.isnan(value):
    return None
  if math.isinf(value):
    return 'inf' if value > 0 else '-inf'
  with np.errstate(over='ignore', under='ignore'):
    narrow = float(np.float32(value))
  # What float32 cannot hold is none of its values: leave it as it is.
  return value if math.isinf(narrow) or (value and not narrow) else narrow


def _infinite(value: Any) -> Any:
  if isinstance(value, str):
    return _INFINITIES.get(value, value)
  if isinstance(value, list):
    return [_infinite(v) for v in value]
  if isinstance(value, dict):
    return {k: _infinite(v) for k, v in value.items()}
  return value


def _complain(message: str) -> None:
  print(f'records: {message}', file=sys.stderr, flush=True)
