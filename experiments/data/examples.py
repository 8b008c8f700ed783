"""The examples of one split, in memory or read as they are asked for."""

import dataclasses
from typing import Protocol

import numpy as np


class Reader(Protocol):

  def __len__(self) -> int:
    ...

  def read(self, indices: list[int]) -> dict[str, np.ndarray]:
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """A split of a data set, by index.

  Attributes:
    name: as given to `load`.
    num_classes: of the labels; None for text.
    vocab_size: of the tokens; None for images.
    arrays: {'image': uint8 [n, h, w, c], 'label': int32 [n]} or {'tokens':
      uint8 [n, length + 1]}, read-only; None where the set is streamed.
    reader: what streams it; None where it is in memory.
  """

  name: str
  num_classes: int | None
  vocab_size: int | None
  arrays: dict[str, np.ndarray] | None
  reader: Reader | None = None

  def __len__(self) -> int:
    if self.arrays is None:
      return len(self.reader)
    return len(next(iter(self.arrays.values())))

  def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return the examples at indices, of any shape, as arrays [*shape, ...].

    The same for a set in memory and a streamed one; safe to call from threads.
    """
    indices = np.asarray(indices)
    if indices.size == 0 and indices.dtype.kind == 'f':
      indices = indices.astype(np.int64)  # What numpy makes of [].
    if indices.dtype.kind not in 'iu':
      raise ValueError(f'indices must be integers, got {indices.dtype}')
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise ValueError(f'indices must be from 0 to {len(self) - 1}, got '
                       f'{indices.min()} to {indices.max()}')
    if self.arrays is not None:
      return {key: array[indices] for key, array in self.arrays.items()}
    flat = self.reader.read(indices.reshape(-1).tolist())
    return {key: array.reshape(indices.shape + array.shape[1:])
            for key, array in flat.items()}


def read_all(reader: Reader, chunk: int = 1024) -> dict[str, np.ndarray]:
  """Read a whole set into read-only arrays, never holding it twice."""
  arrays = {key: np.empty((len(reader), *array.shape[1:]), array.dtype)
            for key, array in reader.read([]).items()}
  for start in range(0, len(reader), chunk):
    stop = min(start + chunk, len(reader))
    for key, part in reader.read(list(range(start, stop))).items():
      arrays[key][start:stop] = part
  for array in arrays.values():
    array.setflags(write=False)
  return arrays
