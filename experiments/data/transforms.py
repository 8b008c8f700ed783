"""Changes to a data set as a whole, in NumPy: pure functions of a seed.

`replicate` is the r-replication by which *Yin et al., `Gradient Diversity
<https://arxiv.org/abs/1706.05699>`_, 2018* (section 6) lower the diversity of a
data set without changing its size; `flip_labels` is symmetric label noise.
"""

import math
import numbers

import numpy as np

from experiments.data import streams

_CHUNK_BYTES = 2 ** 24


def replicate(num_examples: int, factor: float, seed: int) -> np.ndarray:
  """Return the indices of an r-replicated data set: int64 [num_examples].

  A random subset of round(n / r) examples is repeated until it fills n places
  again, so that each occurs floor(r) or ceil(r) times up to that rounding, and
  exactly n in total. r = 1 is the identity. For one seed the subsets are
  nested: what is left at r = 4 is part of what is left at r = 2.

  >>> replicate(6, 1, seed=0)
  array([0, 1, 2, 3, 4, 5])
  >>> len(set(replicate(6, 3, seed=0).tolist()))
  2
  """
  num_examples = streams.check_integer('num_examples', num_examples, 1)
  seed = streams.check_seed(seed)
  if not _is_real(factor) or not 1 <= factor <= num_examples:
    raise ValueError('factor must be a number from 1 to num_examples = '
                     f'{num_examples}, got {factor!r}')
  shuffled = streams.permutation(seed, 'replicate', num_examples)
  subset = shuffled[:max(1, round(num_examples / factor))]
  # Sorted last: were it first, the remainder would favor low indices.
  return np.sort(np.resize(subset, num_examples))


def hold_out(
    num_examples: int, num_held: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Return the indices that stay, and a random `num_held` of the others.

  >>> kept, held = hold_out(5, 2, seed=0)
  >>> len(kept), len(held), sorted([*kept.tolist(), *held.tolist()])
  (3, 2, [0, 1, 2, 3, 4])
  """
  num_examples = streams.check_integer('num_examples', num_examples, 1)
  num_held = streams.check_integer('num_held', num_held, 0, num_examples)
  shuffled = streams.permutation(
      streams.check_seed(seed), 'holdout', num_examples)
  return np.sort(shuffled[num_held:]), np.sort(shuffled[:num_held])


def flip_labels(
    labels: np.ndarray, rate: float, num_classes: int, seed: int
) -> np.ndarray:
  """Return a copy in which exactly round(rate * n) labels are wrong.

  The convention is that each chosen label moves to a *different* class, any of
  the num_classes - 1 others alike. (Others redraw from all classes: then only
  rate * (1 - 1/num_classes) of the labels change.)
  """
  labels = np.asarray(labels)
  num_classes = streams.check_integer('num_classes', num_classes, 2)
  seed = streams.check_seed(seed)
  if not _is_real(rate) or not 0 <= rate <= 1:
    raise ValueError(f'rate must be a number from 0 to 1, got {rate!r}')
  if labels.ndim != 1 or labels.dtype.kind not in 'iu':
    raise ValueError('labels must be integers [n], got '
                     f'{labels.dtype} {list(labels.shape)}')
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(f'labels must be from 0 to num_classes - 1 = '
                     f'{num_classes - 1}, got {labels.min()} to {labels.max()}')
  flipped = round(rate * len(labels))
  chosen = streams.permutation(seed, 'flip_choice', len(labels))[:flipped]
  words = streams.raw_words(seed, 'flip_shift', flipped)
  shift = 1 + streams.below(words, num_classes - 1)
  noisy = labels.copy()
  noisy[chosen] = (labels[chosen].astype(np.int64) + shift) % num_classes
  return noisy


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the mean and standard deviation of each channel: float32 [c] both.

  In the units of the images (0 to 255 for uint8), as `standardize` takes them.
  Reads [n, h, w, c] in chunks, twice: one pass would cancel digits.
  """
  if getattr(images, 'ndim', None) != 4 or 0 in images.shape:
    raise ValueError('images must be [n, h, w, c] and not empty, got '
                     f'{getattr(images, "shape", type(images).__name__)}')
  channels = images.shape[-1]
  rows = max(1, _CHUNK_BYTES // (8 * math.prod(images.shape[1:])))
  chunks = lambda: (
      np.asarray(images[i:i + rows], np.float64).reshape(-1, channels)
      for i in range(0, len(images), rows))
  count = math.prod(images.shape[:-1])
  mean = sum(chunk.sum(axis=0) for chunk in chunks()) / count
  deviations = (((chunk - mean[None]) ** 2).sum(axis=0) for chunk in chunks())
  std = np.sqrt(sum(deviations) / count)
  return mean.astype(np.float32), std.astype(np.float32)


def _is_real(value) -> bool:
  return (isinstance(value, numbers.Real) and not isinstance(value, bool)
          and math.isfinite(value))
