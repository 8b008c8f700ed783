"""From the records of a prepared data set to batches of numpy arrays.

Images are decoded by Pillow and not by TFDS, which would warn about OpenCV and
stumbles over the grey and CMYK JPEGs of ImageNet.
"""

import concurrent.futures
import io
import math
import os
from collections.abc import Sequence

import numpy as np

from experiments.data import text

_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
# Small images decode faster than threads can be handed them.
_LARGE_IMAGE = 2 ** 14


class ImageReader:
  """Reads {'image': uint8 [n, h, w, c], 'label': int32 [n]} by index."""

  def __init__(self, source, image_key, label_key, shape, num_classes, *,
               fit: bool):
    """Set up.

    Args:
      source: one of `sources` whose images are left encoded.
      shape: of each image, height, width and channels.
      num_classes: of the labels; others are an error.
      fit: whether images of other sizes are scaled and cropped to it.
    """
    self._source = source
    self._keys = image_key, label_key
    self._shape = shape
    self._num_classes = num_classes
    self._fit = fit

  def __len__(self) -> int:
    return len(self._source)

  def num_bytes(self) -> int:
    return len(self) * (math.prod(self._shape) + 4)

  def read(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
    image_key, label_key = self._keys
    examples = self._source.__getitems__(indices) if indices else []
    images = np.empty((len(examples), *self._shape), np.uint8)

    def decode(row):
      try:
        images[row] = self._decode(examples[row][image_key])
      except Exception as error:  # Pillow raises one of many kinds.
        raise self._source.places.broken(
            indices[row], f'cannot be decoded ({error})') from error

    _for_each(decode, len(examples), math.prod(self._shape) >= _LARGE_IMAGE)
    labels = np.array([example[label_key] for example in examples], np.int32)
    self._check_labels(labels, indices)
    return {'image': images, 'label': labels}

  def _check_labels(self, labels, indices) -> None:
    is_wrong = (labels < 0) | (labels >= self._num_classes)
    for row in np.flatnonzero(is_wrong)[:1]:
      raise self._source.places.broken(
          indices[row], f'has label {labels[row]}, and there are '
          f'{self._num_classes} classes, from 0 on')

  def _decode(self, encoded: bytes) -> np.ndarray:
    from PIL import Image, ImageOps
    height, width, channels = self._shape
    with Image.open(io.BytesIO(encoded)) as image:
      if self._fit:
        # A JPEG decodes straight to the smallest eighth that is large enough.
        image.draft(None, (width, height))
      image = image.convert(_MODES[channels])
      if self._fit and image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
      return np.asarray(image, np.uint8).reshape(self._shape)


class TextReader:
  """Reads {'tokens': uint8 [n, length + 1]} by index."""

  def __init__(self, source, text_key: str):
    self._source = source
    self._key = text_key
    self._length = len(source.__getitems__([0])[0][text_key])

  def __len__(self) -> int:
    return len(self._source)

  def num_bytes(self) -> int:
    return len(self) * self._length

  def read(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
    examples = self._source.__getitems__(indices) if indices else []
    windows = [example[self._key] for example in examples]
    if any(len(window) != self._length for window in windows):
      raise ValueError('name must be a set of images or of text windows of one '
                       'length, got text of several')
    tokens = text.encode_bytes(b''.join(windows))
    return {'tokens': tokens.reshape(len(windows), self._length)}


def _for_each(function, number: int, threaded: bool) -> None:
  if not threaded or number < 2:
    for index in range(number):
      function(index)
    return
  workers = min(16, number, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    # list() to raise what a thread raised.
    list(pool.map(function, range(number)))
