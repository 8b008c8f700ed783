"""Tests of load: what it reads, in memory and streamed, and how it fails."""

import os
import pathlib
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from pydoc_data import topics
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import embedded, preparing, text


def setUpModule():
  global DATA_DIR, _TEMPORARY
  _TEMPORARY = tempfile.TemporaryDirectory()
  DATA_DIR = _TEMPORARY.name


def tearDownModule():
  _TEMPORARY.cleanup()


class DigitsTest(absltest.TestCase):

  def test_content_is_that_of_sklearn_and_splits_are_disjoint(self):
    from sklearn.datasets import load_digits
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
    train, test = (data.load('digits', split, data_dir=DATA_DIR)
                   for split in ('train', 'test'))
    self.assertEqual((len(train), len(test)), (1437, 360))
    order = embedded.digits_permutation()
    np.testing.assert_array_equal(np.sort(order), np.arange(1797))
    self.assertEqual(order[:4].tolist(), [348, 1529, 1156, 907])
    for part, rows in ((train, order[:1437]), (test, order[1437:])):
      np.testing.assert_array_equal(part.arrays['image'], pixels[rows])
      np.testing.assert_array_equal(part.arrays['label'], digits.target[rows])
    self.assertEqual(train.arrays['image'].dtype, np.uint8)
    self.assertEqual(train.arrays['label'].dtype, np.int32)
    self.assertEqual((train.name, train.num_classes), ('digits', 10))
    self.assertIsNone(train.vocab_size)

  def test_slices(self):
    whole = data.load('digits', 'train', data_dir=DATA_DIR).arrays['label']
    for split, rows in (('train[:90%]', slice(0, 1293)),
                        ('train[100:-37]', slice(100, 1400))):
      part = data.load('digits', split, data_dir=DATA_DIR)
      np.testing.assert_array_equal(part.arrays['label'], whole[rows])
    both = data.load('digits', 'train+test', data_dir=DATA_DIR)
    self.assertLen(both, 1797)

  @pytest.mark.slow
  def test_a_cached_load_reads_and_does_no_more(self):
    data.load('digits', 'train', data_dir=DATA_DIR)
    code = ('import socket, sys\n'
            'def refuse(*args): raise AssertionError("the network")\n'
            'socket.getaddrinfo = socket.socket.connect = refuse\n'
            'from experiments import data\n'
            'assert "tensorflow_datasets" not in sys.modules\n'
            'for download in (True, False):\n'
            '  data.load("digits", "test", download=download)\n'
            'assert not {"sklearn", "tensorflow"} & set(sys.modules)\n')
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True,
        env={**os.environ, 'TFDS_DATA_DIR': DATA_DIR,
             'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)})
    self.assertEqual((done.returncode, done.stderr, done.stdout), (0, '', ''))

  def test_gather(self):
    kept = data.load('digits', 'train', data_dir=DATA_DIR)
    streamed = data.load(
        'digits', 'train', data_dir=DATA_DIR, max_bytes_in_memory=0)
    self.assertIsNone(streamed.arrays)
    self.assertLen(streamed, 1437)
    for indices in ([3, 3, 1436, 0], [[1, 2], [3, 4]], [], 7,
                    np.arange(1437, dtype=np.int32)):
      left, right = kept.gather(indices), streamed.gather(indices)
      for key in ('image', 'label'):
        self.assertEqual(left[key].dtype, right[key].dtype)
        np.testing.assert_array_equal(left[key], right[key])
    self.assertEqual(streamed.gather([[1, 2]])['image'].shape, (1, 2, 8, 8, 1))
    for examples in (kept, streamed):
      for bad in ([-1], [1437], [0.5], [True]):
        with self.assertRaisesRegex(ValueError, 'indices'):
          examples.gather(bad)
    with self.assertRaises(ValueError):
      kept.arrays['image'][0] = 0

  def test_the_limit_is_the_decoded_size(self):
    size = 360 * (64 + 4)
    load = lambda limit: data.load(
        'digits', 'test', data_dir=DATA_DIR, max_bytes_in_memory=limit)
    self.assertIsNotNone(load(size).arrays)
    self.assertIsNone(load(size - 1).arrays)


class PydocTopicsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('pydoc_topics', 64), ('pydoc_topics/length100', 100))
  def test_windows_are_the_text_of_their_split(self, name, length):
    for split in ('train', 'test'):
      examples = data.load(name, split, data_dir=DATA_DIR)
      tokens = examples.arrays['tokens']
      self.assertEqual(tokens.shape, (len(examples), length + 1))
      self.assertEqual((tokens.dtype, tokens.max() < 97), (np.uint8, True))
      self.assertIsNone(examples.num_classes)
      self.assertEqual(examples.vocab_size, data.VOCAB_SIZE)
      row = 0
      for topic, words in sorted(topics.topics.items()):
        if embedded.is_test_topic(topic) == (split == 'test'):
          whole = text.encode_bytes(text.to_ascii(words))
          count = (len(whole) - 1) // length
          windows = tokens[row:row + count]
          row += count
          np.testing.assert_array_equal(
              windows[:, :-1].reshape(-1), whole[:count * length])
          np.testing.assert_array_equal(
              windows[:, 1:].reshape(-1), whole[1:count * length + 1])
      self.assertEqual(row, len(examples))

  def test_a_fifth_is_for_the_test_and_little_is_unknown(self):
    parts = [data.load('pydoc_topics', split, data_dir=DATA_DIR)
             for split in ('train', 'test')]
    share = len(parts[1]) / (len(parts[0]) + len(parts[1]))
    self.assertBetween(share, 0.1, 0.3)
    self.assertLess((parts[0].arrays['tokens'] == 0).mean(), 1e-3)

  def test_streamed_is_in_memory(self):
    kept, streamed = (
        data.load('pydoc_topics', 'test[5:50]', data_dir=DATA_DIR,
                  max_bytes_in_memory=limit) for limit in (2 ** 31, 0))
    np.testing.assert_array_equal(
        streamed.gather(np.arange(45))['tokens'], kept.arrays['tokens'])

  def test_the_version_is_that_of_the_python(self):
    with self.assertRaises(data.DataUnavailableError) as caught:
      data.load('pydoc_topics:2.7.1', 'train', data_dir=DATA_DIR)
    self.assertIn('Python 2.7.1', caught.exception.remedy)


class ErrorsTest(parameterized.TestCase):

  @parameterized.parameters(
      dict(name='mnits', says='mnist'), dict(name='CIFAR10', says='cifar10'),
      dict(name='digit', says='digits'), dict(name='a b', says='name'),
      dict(name='zzzzzzzzz', says='name'), dict(name=3, says='name'),
      dict(name='digits/large', says='name'),
      dict(name='pydoc_topics/length0', says='length<n>'),
      dict(split='tarin', says="split must be one of .*'train'"),
      dict(split='train[:x]', says='split'), dict(split='', says='split'),
      dict(split=None, says='split'), dict(split='train[:0]', says='split'),
      dict(data_dir='', says='data_dir'), dict(data_dir=5, says='data_dir'),
      dict(data_dir='gs://bucket', says='data_dir'),
      dict(data_dir=__file__, says='data_dir'),
      dict(max_bytes_in_memory=-1, says='max_bytes_in_memory'),
      dict(image_size=0, says='image_size'),
      dict(label_key='digit', says="label_key must be one of .'label'"))
  def test_bad_arguments(self, says, **bad):
    good = dict(name='digits', split='train', data_dir=DATA_DIR)
    with self.assertRaisesRegex(ValueError, says) as caught:
      data.load(**{**good, **bad})
    self.assertLess(len(str(caught.exception)), 400)

  @parameterized.parameters('mnist', 'cifar10', 'imagenet2012')
  def test_without_data_and_network_it_says_so_soon(self, name):
    began = time.monotonic()
    with self.assertRaises(data.DataUnavailableError) as caught:
      data.load(name, 'train', data_dir=DATA_DIR)
    self.assertLess(time.monotonic() - began, 10)
    error = caught.exception
    self.assertEqual(error.looked_in, os.path.join(DATA_DIR, name))
    self.assertIn("pip install 'gradiv[prepare]'", error.remedy)
    self.assertIn('cannot be reached', error.missing)
    for fact in (error.missing, error.looked_in, error.remedy):
      self.assertIn(fact, str(error))
    self.assertEqual(str(pickle.loads(pickle.dumps(error))), str(error))
    self.assertFalse(os.path.exists(error.looked_in))

  def test_a_network_that_never_answers(self):
    def hang(*args, **kwargs):
      time.sleep(2)
      raise OSError('too late')

    began = time.monotonic()
    with mock.patch.object(socket, 'create_connection', hang):
      fault = preparing.network_fault('storage.googleapis.com', timeout=0.2)
    self.assertLess(time.monotonic() - began, 1.5)
    self.assertIn('0.2 seconds', fault)

  def test_the_probe_goes_where_the_download_would(self):
    seen = []

    def connect(address, timeout):
      seen.append(address)
      return mock.Mock()

    with mock.patch.object(socket, 'create_connection', connect):
      with mock.patch.dict(os.environ, clear=True):
        self.assertIsNone(preparing.network_fault('www.cs.toronto.edu'))
      with mock.patch.dict(
          os.environ, {'HTTPS_PROXY': 'http://proxy:3128'}, clear=True):
        self.assertIsNone(preparing.network_fault('www.cs.toronto.edu'))
    self.assertEqual(seen, [('www.cs.toronto.edu', 443), ('proxy', 3128)])

  def test_download_false_never_touches_the_network(self):
    refuse = mock.Mock(side_effect=AssertionError('the network'))
    with mock.patch.object(socket, 'create_connection', refuse), \
        mock.patch.object(socket, 'getaddrinfo', refuse):
      with self.assertRaises(data.DataUnavailableError) as caught:
        data.load('mnist', 'train', data_dir=DATA_DIR, download=False)
    self.assertIn('download=True', caught.exception.remedy)

  def test_a_folder_that_cannot_be_written_to(self):
    below_a_file = pathlib.Path(__file__) / 'data'
    with self.assertRaises(data.DataUnavailableError) as caught:
      data.load('digits', 'train', data_dir=below_a_file)
    self.assertIn('data_dir', caught.exception.remedy)


if __name__ == '__main__':
  absltest.main()
