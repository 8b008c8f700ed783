"""Micro-batches with as many examples of each class, a function of the step."""

from collections.abc import Iterable

import numpy as np

from experiments.data import ordering, streams


def balanced_order(
    seed: int,
    steps: Iterable[int],
    labels: np.ndarray,
    *,
    num_classes: int,
    per_class: int,
    num_batches: int,
) -> np.ndarray:
  """Return which examples each step reads: int32 [len(steps), size].

  A step reads `num_batches` micro-batches, one behind the other, each of
  `per_class` examples of each class: no example twice within a step, every
  choice of them alike. As in the code of *Chaubard et al., `Beyond Gradient
  Averaging in Parallel Optimization <https://arxiv.org/abs/2412.18052>`_,
  2024*.

  >>> labels = np.array([0, 1, 0, 1, 0, 1])
  >>> rows = balanced_order(0, [7], labels, num_classes=2, per_class=1,
  ...                       num_batches=3)
  >>> labels[rows].tolist()
  [[0, 1, 0, 1, 0, 1]]

  Args:
    steps: absolute numbers of steps.
    labels: [n], to balance by; not necessarily those to learn.

  Raises:
    ValueError: where a class has fewer than per_class * num_batches examples.
  """
  seed = streams.check_seed(seed)
  per_class = streams.check_integer('per_class', per_class, 1)
  num_batches = streams.check_integer('num_batches', num_batches, 1)
  steps, labels = ordering.as_steps(steps), np.asarray(labels)
  width = per_class * num_batches
  counts = np.bincount(labels, minlength=num_classes)
  if len(counts) > num_classes or counts.min() < width:
    raise ValueError(
        f'per_class={per_class}, num_batches={num_batches}: each of the '
        f'{num_classes} classes needs at least {width} examples, and they '
        f'have {counts.tolist()}')
  by_class = np.argsort(labels, kind='stable')
  firsts = np.cumsum(counts) - counts
  shape = len(steps), num_classes, width
  words = lambda purpose: _words(seed, purpose, steps, num_classes * width)
  chosen = _distinct(words('class_choice').reshape(shape), counts)
  # Which of them goes into which micro-batch.
  dealt = np.argsort(words('class_deal').reshape(shape), axis=-1)
  chosen = np.take_along_axis(chosen, dealt, axis=-1)
  rows = by_class[firsts[None, :, None] + chosen]
  rows = rows.reshape(len(steps), num_classes, num_batches, per_class)
  rows = np.moveaxis(rows, 2, 1).astype(np.int32)
  return rows.reshape(len(steps), num_classes * width)


def _words(seed, purpose, steps, size) -> np.ndarray:
  """Return the words of each step: uint64 [len(steps), size]."""
  breaks = np.flatnonzero(np.diff(steps) != 1) + 1
  words = [streams.raw_words(seed, purpose, len(run) * size,
                             start=int(run[0]) * size)
           for run in np.split(steps, breaks) if len(run)]
  return np.concatenate([*words, np.zeros(0, np.uint64)]).reshape(-1, size)


def _distinct(words, counts) -> np.ndarray:
  """Choose, for each class, distinct numbers below its count, by Floyd's rule.

  Bentley and Floyd, `A Sample of Brilliance
  <https://doi.org/10.1145/30401.315746>`_, 1987.
  """
  width = words.shape[-1]
  chosen = np.full(words.shape, -1, np.int64)
  for place in range(width):
    last = (counts - width + place)[None, :]
    drawn = streams.below(words[..., place], last + 1)
    taken = (chosen[..., :place] == drawn[..., None]).any(-1)
    chosen[..., place] = np.where(taken, last, drawn)
  return chosen
