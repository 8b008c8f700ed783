"""TFRecord files by position, without TensorFlow.

A file is a row of frames: the length as 8 bytes, the masked CRC-32C of those 8
bytes, the record, the masked CRC-32C of the record (4 bytes each). Lengths are
all checked when a file is opened; a record is left to its own decoder.
"""

import mmap
import os
import struct
from collections.abc import Sequence

import numpy as np

from experiments.data import folders

_HEADER = struct.Struct('<QI')
_FOOTER = 4
_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8


def _crc_table() -> np.ndarray:
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(_CASTAGNOLI),
                     table >> 1)
  return table


_TABLE = _crc_table()


def masked_crc32c(data: np.ndarray) -> np.ndarray:
  """Return the masked CRC-32C of each row of data [n, length]: uint32 [n]."""
  crc = np.full([len(data)], 2 ** 32 - 1, np.uint32)
  for column in data.T:
    crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
  crc = ~crc
  return ((crc >> 15) | (crc << 17)) + np.uint32(_MASK)


def index_file(path: str | os.PathLike, num_records: int) -> np.ndarray:
  """Return where the records of a file lie: int64 [n, 2], offset and length.

  Args:
    num_records: how many there are by dataset_info.json.
  """
  try:
    size = os.path.getsize(path)
    if not size:
      return _checked(path, [], [], num_records, torn=False)
    with open(path, 'rb') as file, mmap.mmap(
        file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      return _index(path, data, size, num_records)
  except OSError as error:
    raise _broken(path, f'cannot be read ({error})') from error


def _index(path, data, size: int, num_records: int) -> np.ndarray:
  spans, checks, position = [], [], 0
  while position + _HEADER.size <= size:
    length, check = _HEADER.unpack_from(data, position)
    start = position + _HEADER.size
    spans.append((start, length))
    checks.append(check)
    position = start + length + _FOOTER
  return _checked(path, spans, checks, num_records, torn=position != size)


def _checked(path, spans, checks, num_records: int, *, torn: bool):
  lengths = np.array([length for _, length in spans], np.uint64)
  rows = lengths.astype('<u8').view(np.uint8).reshape(-1, 8)
  wrong = np.flatnonzero(masked_crc32c(rows) != np.array(checks, np.uint32))
  # First: a wrong length throws off all that follows, the count included.
  if wrong.size:
    raise _broken(path, f'is corrupt at record {wrong[0]}')
  if torn:
    raise _broken(
        path, f'is cut off in or after record {max(0, len(spans) - 1)}')
  if len(spans) != num_records:
    raise _broken(path, f'holds {len(spans)} records where dataset_info.json '
                        f'says {num_records}')
  return np.array(spans, np.int64).reshape(-1, 2)


def _broken(path, what: str) -> folders.DataUnavailableError:
  folder = os.path.dirname(os.path.abspath(path))
  return folders.DataUnavailableError(
      f'{os.fspath(path)} {what}.', folder,
      'copy the file again, or delete the folder and load again.')


class TfRecordSource:
  """The records of a split by index, as a TFDS data source gives them."""

  def __init__(self, instructions: Sequence, deserialize):
    """Index the files.

    Args:
      instructions: TFDS's: filename, skip, take and examples_in_shard of each.
      deserialize: from the bytes of a record to a dict of features.
    """
    self._deserialize = deserialize
    self._paths = [instruction.filename for instruction in instructions]
    spans = [
        index_file(i.filename, i.examples_in_shard)[i.skip:i.skip + i.take]
        for i in instructions]
    files = [np.full([len(s), 1], n, np.int64) for n, s in enumerate(spans)]
    self._places = np.concatenate(
        [np.zeros([0, 3], np.int64)]
        + [np.concatenate(pair, axis=1) for pair in zip(files, spans)])

  def __len__(self) -> int:
    return len(self._places)

  def __getitems__(self, indices: Sequence[int]) -> list[dict]:
    records = [b''] * len(indices)
    places = self._places[np.asarray(indices, np.int64)]
    # File by file, so that as few are open at a time as there can be: one.
    for number in np.unique(places[:, 0]):
      with open(self._paths[number], 'rb') as file:
        for row in np.flatnonzero(places[:, 0] == number):
          _, offset, length = places[row]
          file.seek(offset)
          records[row] = file.read(length)
    return [self._deserialize(record) for record in records]
