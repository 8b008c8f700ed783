"""Tests of what reads folders of TFDS: copies, TFRecord, images of any size."""

import os
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import tfrecord
from tests.experiments.data import fakes


class ReadingTest(fakes.Folder):

  def test_a_copy_of_mnist_in_any_version(self):
    made = self.make(fakes.FakeMnist)
    train = data.load('mnist', 'train', data_dir=self.root)
    self.assertEqual(train.arrays['image'].shape, (100, 28, 28, 1))
    np.testing.assert_array_equal(
        train.arrays['label'], train.arrays['image'][:, 0, 0, 0] % 10)
    source = tfds.builder_from_directory(made).as_data_source('train')
    np.testing.assert_array_equal(
        train.arrays['image'], [example['image'] for example in source])
    made.rename(made.parent / '3.0.0')
    self.assertLen(data.load('mnist', 'test', data_dir=self.root), 30)
    self.assertLen(data.load('mnist:3.0.0', 'test', data_dir=self.root), 30)
    with mock.patch.dict(os.environ, TFDS_DATA_DIR=str(self.root)):
      self.assertLen(data.load('mnist', 'test', download=False), 30)

  def test_a_tfrecord_copy_is_the_same(self):
    self.assertEqual(fakes.crc32c(b'123456789'), 0xE3069283)
    source = self.make(fakes.FakeMnist)
    twin = self.root / 'twin' / 'mnist' / '3.0.1'
    fakes.write_twin(source, twin)
    for split in ('train', 'test', 'train[50:70]', 'train[61:]+test[:3]'):
      for limit in (2 ** 31, 0):
        left, right = (
            data.load('mnist', split, data_dir=root, max_bytes_in_memory=limit)
            for root in (self.root, self.root / 'twin'))
        everything = np.arange(len(left))[::-1]
        for key in ('image', 'label'):
          np.testing.assert_array_equal(
              left.gather(everything)[key], right.gather(everything)[key])

  def test_broken_tfrecord_files_are_named(self):
    path = self.root / 'x.tfrecord-00000-of-00001'
    whole = b''.join(fakes.frame(bytes(n)) for n in (5, 0, 300))
    path.write_bytes(whole)
    np.testing.assert_array_equal(
        tfrecord.index_file(path, 3), [[12, 5], [33, 0], [49, 300]])
    flipped = bytearray(whole)
    flipped[0] ^= 1
    for content, count, what in (
        (whole[:-1], 3, 'cut off'), (whole[:45], 3, 'cut off'),
        (whole[:21], 3, 'holds 1'), (whole, 4, 'holds 3'), (b'', 3, 'holds 0'),
        (bytes(flipped), 3, 'record 0 is corrupt')):
      path.write_bytes(content)
      with self.assertRaisesRegex(data.DataUnavailableError, what) as caught:
        tfrecord.index_file(path, count)
      self.assertIn(str(path), str(caught.exception))

  @parameterized.parameters('tfrecord', 'array_record')
  def test_a_truncated_copy_does_not_load(self, kind):
    made = self.make(fakes.FakeMnist)
    if kind == 'tfrecord':
      made, source = self.root / 'twin' / 'mnist' / '3.0.1', made
      fakes.write_twin(source, made)
    (file,) = made.glob(f'mnist-test.{kind}-*')
    file.write_bytes(file.read_bytes()[:-700])
    load = lambda: data.load('mnist', 'test', data_dir=made.parents[1])
    with self.assertRaisesRegex(data.DataUnavailableError, 'mnist'):
      load()
    file.unlink()
    with self.assertRaisesRegex(data.DataUnavailableError, 'is missing'):
      load()
    (made / 'dataset_info.json').write_text('{')
    with self.assertRaisesRegex(data.DataUnavailableError, 'description'):
      load()

  def test_parquet_is_refused(self):
    made = self.make(fakes.FakeMnist)
    path = made / 'dataset_info.json'
    path.write_text(path.read_text().replace('array_record', 'parquet'))
    for file in made.glob('*.array_record-*'):
      file.rename(str(file).replace('array_record', 'parquet'))
    with self.assertRaisesRegex(data.DataUnavailableError, 'parquet'):
      data.load('mnist', 'train', data_dir=self.root)

  def test_images_of_any_size_are_scaled_and_cropped(self):
    self.make(fakes.FakeImagenet)
    load = lambda **options: data.load(
        'imagenet2012', 'validation', data_dir=self.root, **options)
    with self.assertRaisesRegex(ValueError, 'image_size'):
      load()
    streamed = load(image_size=128, max_bytes_in_memory=0)
    self.assertIsNone(streamed.arrays)
    batch = streamed.gather(np.arange(12))
    self.assertEqual(batch['image'].shape, (12, 128, 128, 3))
    self.assertEqual(batch['label'].tolist(), list(range(0, 120, 10)))
    self.assertEqual(streamed.num_classes, 1000)
    np.testing.assert_array_equal(
        batch['image'], load(image_size=128).arrays['image'])
    # The center is cut out of the ramp: a quarter from each side of 400.
    middle = batch['image'].astype(int).mean((1, 3))
    np.testing.assert_allclose(middle[:, 0] + middle[:, -1], 255, atol=8)
    np.testing.assert_allclose(middle[0, 0], 255 / 8, atol=4)
    np.testing.assert_allclose(middle[1, 0], 0, atol=4)
    coarse = load(image_size=16, label_key='coarse')
    self.assertEqual(coarse.num_classes, 3)
    self.assertEqual(coarse.arrays['label'].tolist(), [0, 1, 2] * 4)
    with self.assertRaisesRegex(ValueError, 'label_key'):
      load(image_size=16, label_key='fine')

  def test_sets_of_another_kind_are_refused(self):
    class Pairs(fakes.FakeMnist, skip_registration=True):
      name = 'pairs'

      def _info(self):
        features = {'a': tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features))

      def _generate_examples(self, seed, number):
        yield 0, {'a': 1}

    self.make(Pairs)
    with self.assertRaisesRegex(ValueError, 'one Image and a ClassLabel'):
      data.load('pairs', 'train', data_dir=self.root)


if __name__ == '__main__':
  absltest.main()
