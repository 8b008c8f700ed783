"""TFRecord files by position, without TensorFlow.

A file is a row of frames: the length as 8 bytes, the masked CRC-32C of those 8
bytes, the record, the masked CRC-32C of the record (4 bytes each). Lengths are
all checked when a file is opened, and each record whenever it is read.
"""

import mmap
import os
import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

from experiments.data import sources

_HEADER = struct.Struct('<QI')
_FOOTER = struct.Struct('<I')
_MASK = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
  """Return the masked CRC-32C of some bytes, as TFRecord files have it."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def index_file(path: str | os.PathLike, num_records: int) -> np.ndarray:
  """Return where the records of a file lie: int64 [n, 2], offset and length.

  Args:
    num_records: how many there are by dataset_info.json.
  """
  try:
    size = os.path.getsize(path)
    if not size:
      return _checked(path, [], num_records)
    with open(path, 'rb') as file, mmap.mmap(
        file.fileno(), 0, access=mmap.ACCESS_READ) as data:
      return _index(path, data, size, num_records)
  except OSError as error:
    raise sources.broken_file(path, f'cannot be read ({error})') from error


def _index(path, data, size: int, num_records: int) -> np.ndarray:
  spans, position = [], 0
  while position + _HEADER.size <= size:
    length, check = _HEADER.unpack_from(data, position)
    # A wrong length would throw off all that follows.
    if masked_crc32c(data[position:position + 8]) != check:
      raise sources.broken_file(path, f'record {len(spans)} is corrupt')
    start = position + _HEADER.size
    spans.append((start, length))
    position = start + length + _FOOTER.size
  if position != size:
    raise sources.broken_file(
        path, f'is cut off in or after record {max(0, len(spans) - 1)}')
  return _checked(path, spans, num_records)


def _checked(path, spans, num_records: int) -> np.ndarray:
  if len(spans) != num_records:
    raise sources.broken_file(
        path, f'holds {len(spans)} records where dataset_info.json says '
        f'{num_records}')
  return np.array(spans, np.int64).reshape(-1, 2)


class TfRecordSource:
  """The records of a split by index, as a TFDS data source gives them.

  Attributes:
    places: Where its records lie.
  """

  def __init__(self, instructions: Sequence, deserialize):
    """Index the files.

    Args:
      instructions: TFDS's: filename, skip, take and examples_in_shard of each.
      deserialize: from the bytes of a record to a dict of features.
    """
    self._deserialize = deserialize
    self.places = sources.Places(instructions)
    self._paths = [instruction.filename for instruction in instructions]
    spans = [
        index_file(i.filename, i.examples_in_shard)[i.skip:i.skip + i.take]
        for i in instructions]
    files = [np.full([len(s), 1], n, np.int64) for n, s in enumerate(spans)]
    self._spans = np.concatenate(
        [np.zeros([0, 3], np.int64)]
        + [np.concatenate(pair, axis=1) for pair in zip(files, spans)])

  def __len__(self) -> int:
    return len(self._spans)

  def __getitems__(self, indices: Sequence[int]) -> list[dict]:
    records = dict.fromkeys(indices, b'')
    # File by file, so that as few are open at a time as there can be: one.
    for number in np.unique(self._spans[np.asarray(indices, np.int64), 0]):
      with open(self._paths[number], 'rb') as file:
        for index in records:
          own, offset, length = self._spans[index]
          if own == number:
            file.seek(offset)
            records[index] = self._unwrapped(
                index, file.read(length + _FOOTER.size))
    return sources.each(lambda index: self._deserialize(records[index]),
                        indices, self.places)

  def _unwrapped(self, index: int, frame: bytes) -> bytes:
    """Take the checksum off a record, and compare."""
    record, end = frame[:-_FOOTER.size], frame[-_FOOTER.size:]
    if end != _FOOTER.pack(masked_crc32c(record)):
      raise self.places.broken(index, 'is corrupt')
    return record
