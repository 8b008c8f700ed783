"""Damaged data sets: an error that names file and record, never other data."""

import json

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data
from tests.experiments.data import fakes


class Wrong(fakes.FakeMnist, skip_registration=True):
  """Images that are none, at 7, in TFDS's own encoding."""

  name = 'mnist'

  def _generate_examples(self, seed, number):
    for key, example in super()._generate_examples(seed, number):
      yield key, example | ({'image': b'no image'} if key == 7 else {})


class DamageTest(fakes.Folder):

  def twin(self, builder=fakes.FakeMnist):
    made = self.make(builder)
    twin = self.root / 'twin' / 'mnist' / '3.0.1'
    fakes.write_twin(made, twin)
    return twin

  def load(self, folder, split='test', **options):
    return data.load('mnist', split, data_dir=folder.parents[1], **options)

  def test_no_flipped_bit_of_a_tfrecord_goes_into_training(self):
    twin = self.twin()
    (file,) = twin.glob('mnist-test.tfrecord-*')
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 60, replace=False):
      damaged = bytearray(whole)
      damaged[place] ^= 1 << rng.integers(8)
      file.write_bytes(damaged)
      with self.assertRaisesRegex(
          data.DataUnavailableError, f'{file.name}: (record|is cut|holds)'):
        self.load(twin)
      with self.assertRaisesRegex(data.DataUnavailableError, file.name):
        streamed = self.load(twin, max_bytes_in_memory=0)
        streamed.gather(np.arange(len(streamed)))

  def test_the_record_is_named_by_its_file_and_place(self):
    twin = self.twin()
    file = sorted(twin.glob('mnist-train.tfrecord-*'))[1]
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    # Of 100 records, 60 lie in the first file; the last is number 39 here.
    streamed = self.load(twin, 'train[50%:]', max_bytes_in_memory=0)
    streamed.gather(np.arange(49))
    with self.assertRaisesRegex(
        data.DataUnavailableError, f'{file.name}: record 39 is corrupt'):
      streamed.gather(np.array([3, 49]))

  @parameterized.parameters('array_record', 'tfrecord')
  def test_an_image_that_cannot_be_decoded_is_named(self, kind):
    # The checksum is right: it was written so.
    made = self.make(Wrong)
    if kind == 'tfrecord':
      fakes.write_twin(made, self.root / 'twin' / 'mnist' / '3.0.1')
      made = self.root / 'twin' / 'mnist' / '3.0.1'
    with self.assertRaisesRegex(
        data.DataUnavailableError,
        rf'mnist-test.{kind}-\d+-of-\d+: record \d+ cannot be decoded'):
      self.load(made)

  def test_a_label_that_is_no_class_is_an_error(self):
    made = self.make(fakes.FakeMnist)
    path = made / 'features.json'
    # The labels are 0 to 9, and the description now knows four.
    path.write_text(path.read_text().replace('"10"', '"4"'))
    with self.assertRaisesRegex(
        data.DataUnavailableError, r'record \d+ has label [4-9], .* 4 classes'):
      self.load(made)

  @parameterized.parameters('pythonClassName', 'type')
  def test_no_module_that_a_data_folder_names_is_imported(self, key):
    made = self.make(fakes.FakeMnist)
    path = made / 'features.json'
    features = json.loads(path.read_text())
    label = features['featuresDict']['features']['label']
    label.pop('pythonClassName')
    label |= {key: 'this.is_not_ours.Label', 'content': {}}
    path.write_text(json.dumps(features))
    with self.assertRaisesRegex(
        data.DataUnavailableError, "names 'this.is_not_ours.Label'"):
      self.load(made)

  @parameterized.parameters('"../.."', '3', '[]', 'null')
  def test_a_default_configuration_is_a_name(self, value):
    (self.root / 'mnist' / '.config').mkdir(parents=True)
    (self.root / 'mnist' / '.config' / 'metadata.json').write_text(
        f'{{"default_config_name": {value}}}')
    with self.assertRaisesRegex(data.DataUnavailableError, 'not prepared'):
      data.load('mnist', 'test', data_dir=self.root, download=False)


if __name__ == '__main__':
  absltest.main()
