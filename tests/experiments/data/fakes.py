"""Data sets of noise in folders of TFDS, for the tests of experiments.data."""

import io
import json
import pathlib
import shutil
import struct
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import parameterized
from PIL import Image


def encoded(pixels, kind='png', mode=None) -> bytes:
  buffer = io.BytesIO()
  image = Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(buffer, kind)
  return buffer.getvalue()


class FakeMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """An mnist of noise, whose labels are the first pixel modulo ten."""

  name = 'mnist'
  VERSION = tfds.core.Version('3.0.1')

  def _info(self):
    features = {'image': tfds.features.Image(shape=(28, 28, 1)),
                'label': tfds.features.ClassLabel(num_classes=10)}
    return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 100),
            'test': self._generate_examples(1, 30)}

  def _generate_examples(self, seed, number):
    rng = np.random.default_rng(seed)
    for key in range(number):
      pixels = rng.integers(0, 256, [28, 28], np.uint8)
      yield key, {'image': encoded(pixels), 'label': int(pixels[0, 0]) % 10}


class FakeImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """JPEGs of three sizes and three color spaces, with two labels."""

  name = 'imagenet2012'
  VERSION = tfds.core.Version('5.1.0')

  def _info(self):
    features = {'image': tfds.features.Image(encoding_format='jpeg'),
                'label': tfds.features.ClassLabel(num_classes=1000),
                'coarse': tfds.features.ClassLabel(num_classes=3),
                'file_name': tfds.features.Text()}
    return tfds.core.DatasetInfo(
        builder=self, disable_shuffling=True,
        features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'validation': self._generate_examples()}

  def _generate_examples(self):
    for key in range(12):
      height, width = ((300, 400), (500, 200), (160, 160))[key % 3]
      # Left to right from dark to light: a crop of the center is symmetric.
      ramp = np.linspace(0, 255, width).astype(np.uint8)
      grey = np.repeat(ramp[None], height, axis=0)
      pixels = grey if key == 4 else np.stack([grey] * 3, axis=-1)
      yield key, {
          'image': encoded(pixels, 'jpeg', 'CMYK' if key == 5 else None),
          'label': 10 * key, 'coarse': key % 3, 'file_name': f'{key}.JPEG'}


def crc32c(data: bytes) -> int:
  crc = 2 ** 32 - 1
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  return crc ^ (2 ** 32 - 1)


def frame(record: bytes) -> bytes:
  masked = lambda b: struct.pack('<I', (
      ((crc32c(b) >> 15) | (crc32c(b) << 17)) + 0xA282EAD8) % 2 ** 32)
  length = struct.pack('<Q', len(record))
  return length + masked(length) + record + masked(record)


def write_twin(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Write a TFRecord copy of an array_record set, train in two files."""
  builder = tfds.builder_from_directory(folder)
  target.mkdir(parents=True)
  shutil.copy(folder / 'features.json', target)
  info = json.loads((folder / 'dataset_info.json').read_text())
  info['fileFormat'] = 'tfrecord'
  for split in info['splits']:
    name = split['name']
    source = builder.as_data_source(name).data_source
    records = source.__getitems__(list(range(len(source))))
    parts = [records[:60], records[60:]] if name == 'train' else [records]
    split['shardLengths'] = [str(len(part)) for part in parts]
    for number, part in enumerate(parts):
      file = f'mnist-{name}.tfrecord-{number:05}-of-{len(parts):05}'
      (target / file).write_bytes(b''.join(map(frame, part)))
  (target / 'dataset_info.json').write_text(json.dumps(info))


class Folder(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    temporary = tempfile.TemporaryDirectory()
    self.addCleanup(temporary.cleanup)
    self.root = pathlib.Path(temporary.name)

  def make(self, builder, root=None):
    made = builder(data_dir=root or self.root, file_format='array_record')
    made.download_and_prepare()
    return pathlib.Path(made.data_dir)
