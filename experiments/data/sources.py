"""The records of a split by index, which name the file if one is broken."""

import bisect
import itertools
import os
from collections.abc import Callable, Sequence

from experiments.data import folders


class Places:
  """Which file each record of a split lies in, and at which position."""

  def __init__(self, instructions: Sequence):
    """Set up.

    Args:
      instructions: TFDS's: filename, skip, take and examples_in_shard of each.
    """
    self._instructions = list(instructions)
    self._ends = list(itertools.accumulate(i.take for i in instructions))

  def broken(self, index: int, what: str) -> folders.DataUnavailableError:
    """Make the error that names the file of a record and its position."""
    number = bisect.bisect_right(self._ends, index)
    one = self._instructions[number]
    position = one.skip + index - (self._ends[number] - one.take)
    return broken_file(one.filename, f'record {position} {what}')


def broken_file(path, what: str) -> folders.DataUnavailableError:
  """Make the error that names a file and says what is wrong with it."""
  folder = os.path.dirname(os.path.abspath(path))
  return folders.DataUnavailableError(
      f'{os.fspath(path)}: {what}.', folder,
      'copy the file again, or delete the folder and load again.')


class ArrayRecordSource:
  """A data source of TFDS that names the file when a record is broken.

  Attributes:
    places: Where its records lie.
  """

  def __init__(self, source, instructions: Sequence):
    self._source = source
    self.places = Places(instructions)
    # A file that was cut off says so at its last record.
    self.__getitems__([0, len(source) - 1])

  def __len__(self) -> int:
    return len(self._source)

  def __getitems__(self, indices: Sequence[int]) -> list[dict]:
    try:
      return self._source.__getitems__(indices)
    except Exception:  # The reader raises one of many kinds: which record?
      return each(lambda index: self._source.__getitems__([index])[0],
                  indices, self.places)


def each(
    read: Callable[[int], dict], indices: Sequence[int], places: Places
) -> list[dict]:
  """Read record by record; the error names the first that is broken."""
  found = []
  for index in indices:
    try:
      found.append(read(index))
    except Exception as error:
      raise places.broken(index, f'cannot be read ({error})') from error
  return found
