"""The order of the data: a pure function of (seed, step).

Examples are numbered along the whole run: step k of batch size B reads the
places kB to (k+1)B - 1 of one endless sequence s_0, s_1, ..., as in eq. (2) of
*Yin et al., `Gradient Diversity <https://arxiv.org/abs/1706.05699>`_, 2018*.
The sequence does not depend on B: runs that differ in the batch size only see
the same examples in the same order, which takes that noise out of comparisons.
"""

import functools
from collections.abc import Iterable

import numpy as np

from experiments.data import streams

SAMPLINGS = ('epoch', 'replacement')


def order(
    seed: int,
    steps: Iterable[int],
    batch_size: int,
    num_examples: int,
    *,
    sampling: str,
) -> np.ndarray:
  """Return which examples each step reads: int32 [len(steps), batch_size].

  The numbers are the same in every release of NumPy (see `streams`).

  >>> order(0, [5], 4, 10, sampling='epoch').shape
  (1, 4)

  Args:
    steps: absolute numbers of steps, in any order; a resumed run just starts
      at a later one.
    sampling: 'epoch': every epoch is a fresh permutation, and batches run over
      the border of two epochs, so that no example is ever dropped.
      'replacement': each place is uniform and independent of all others.
  """
  seed = streams.check_seed(seed)
  batch_size = streams.check_integer('batch_size', batch_size, 1)
  num_examples = streams.check_integer(
      'num_examples', num_examples, 1, 2 ** 31 - 1)
  if sampling not in SAMPLINGS:
    raise ValueError(f'sampling must be one of {SAMPLINGS}, got {sampling!r}')
  firsts = as_steps(steps) * batch_size
  places = firsts[:, None] + np.arange(batch_size)[None, :]
  read = _by_epoch if sampling == 'epoch' else _with_replacement
  # Sorted, each epoch and each stretch of the stream is visited once.
  sorting = np.argsort(places, axis=None, kind='stable')
  result = np.empty(places.size, np.int32)
  result[sorting] = read(seed, places.reshape(-1)[sorting], num_examples)
  return result.reshape(places.shape)


def as_steps(steps: Iterable[int]) -> np.ndarray:
  """Return the numbers of steps as an int64 array, or raise ValueError."""
  if not isinstance(steps, np.ndarray):
    try:
      steps = np.asarray(list(steps))
    except TypeError:
      steps = np.asarray(steps)
  if steps.size == 0:
    return np.zeros([0], np.int64)
  if steps.ndim != 1 or steps.dtype.kind not in 'iu' or steps.min() < 0:
    raise ValueError(
        f'steps must be a sequence of integers >= 0, got {steps!r}')
  return steps.astype(np.int64)


def _by_epoch(seed: int, places: np.ndarray, num_examples: int) -> np.ndarray:
  epochs, positions = np.divmod(places, num_examples)
  result = np.empty(places.shape, np.int32)
  numbers, starts = np.unique(epochs, return_index=True)
  for epoch, start, stop in zip(numbers, starts, [*starts[1:], len(places)]):
    shuffled = _epoch_permutation(seed, int(epoch), num_examples)
    result[start:stop] = shuffled[positions[start:stop]]
  return result


# Two, as a batch on the border reads two epochs; 5 MB each for ImageNet.
@functools.lru_cache(maxsize=2)
def _epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  shuffled = streams.permutation(seed, 'epoch', num_examples, index=epoch)
  return shuffled.astype(np.int32)


def _with_replacement(
    seed: int, places: np.ndarray, num_examples: int
) -> np.ndarray:
  breaks = np.flatnonzero(np.diff(places) != 1) + 1
  words = [streams.raw_words(seed, 'replacement', len(run), start=int(run[0]))
           for run in np.split(places, breaks) if len(run)]
  if not words:
    return np.zeros([0], np.int32)
  return streams.below(np.concatenate(words), num_examples)
