"""Two data sets that ship inside other packages, as TFDS builders of our own.

`digits`: the 1,797 handwritten digits, 8 by 8, inside scikit-learn, a copy of
the test set of *Alpaydin and Kaynak, `Optical Recognition of Handwritten Digits
<https://archive.ics.uci.edu/dataset/80>`_, 1998*. `pydoc_topics`: the English
text of the language reference inside CPython's `pydoc_data.topics`.
Imported to prepare them only; read back they are like any other set of TFDS.
"""

import dataclasses
import io
import sys
import zlib

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import streams, text

NUM_TRAIN_DIGITS = 1437


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images [8, 8, 1] of 0 to 9: grey levels 0..16 scaled to 0..255.

  1,437 to train on and 360 to test, by one fixed permutation. It is not the
  split by writers of the original: the copy does not say who wrote what.
  """

  name = 'digits'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    image = tfds.features.Image(
        shape=(8, 8, 1), dtype=np.uint8, encoding_format='png')
    label = tfds.features.ClassLabel(num_classes=10)
    return tfds.core.DatasetInfo(
        builder=self, description=Digits.__doc__, disable_shuffling=True,
        features=tfds.features.FeaturesDict({'image': image, 'label': label}),
        supervised_keys=('image', 'label'))

  def _split_generators(self, dl_manager):
    shuffled = digits_permutation()
    return {'train': self._generate_examples(shuffled[:NUM_TRAIN_DIGITS]),
            'test': self._generate_examples(shuffled[NUM_TRAIN_DIGITS:])}

  def _generate_examples(self, indices):
    from PIL import Image

    # Imported here: it takes longer than all the rest.
    from sklearn.datasets import load_digits
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for key, index in enumerate(indices):
      # As bytes: TFDS encodes an array with TensorFlow.
      buffer = io.BytesIO()
      Image.fromarray(pixels[index]).save(buffer, 'png')
      yield key, {'image': buffer.getvalue(),
                  'label': int(digits.target[index])}


def digits_permutation() -> np.ndarray:
  """Return in which order scikit-learn's digits are written."""
  return streams.permutation(0, 'digits', 1797)


@dataclasses.dataclass(eq=False)
class Windows(tfds.core.BuilderConfig):
  """How many characters a window predicts."""

  length: int = 64


class PydocTopics(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Windows of length + 1 characters out of CPython's help texts.

  Consecutive windows of a topic share one character, so that every character
  but the first is predicted once; a rest shorter than a window is dropped.
  Topics are whole in one split, and in the same one whatever the Python: a
  fifth of them by a hash of the name. The text changes with every release of
  Python, so the version of the data set is the version of the Python.
  """

  name = 'pydoc_topics'
  VERSION = tfds.core.Version('.'.join(map(str, sys.version_info[:3])))

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, description=PydocTopics.__doc__, disable_shuffling=True,
        features=tfds.features.FeaturesDict({'text': tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(False),
            'test': self._generate_examples(True)}

  def _generate_examples(self, is_test):
    from pydoc_data import topics
    length = self.builder_config.length
    key = 0
    for name, topic in sorted(topics.topics.items()):
      if is_test_topic(name) == is_test:
        topic = text.to_ascii(topic)
        for start in range(0, len(topic) - length, length):
          yield key, {'text': topic[start:start + length + 1]}
          key += 1


def pydoc_topics(length: int) -> type[PydocTopics]:
  """Return the builder for windows of a length."""

  # TFDS warns of a configuration that the class does not list.
  class Sized(PydocTopics, skip_registration=True):
    name = PydocTopics.name
    BUILDER_CONFIGS = [Windows(name=f'length{length}', length=length)]

  return Sized


def is_test_topic(name: str) -> bool:
  return zlib.crc32(name.encode()) % 5 == 0
