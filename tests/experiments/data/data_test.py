"""Tests of the pure half of experiments.data: order, transforms, text."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments import data
from experiments.data import streams


class StreamsTest(parameterized.TestCase):

  @parameterized.parameters(0, 1, 3, 4, 5, 1001)
  def test_any_place_is_the_same_as_reading_up_to_it(self, start):
    whole = streams.raw_words(7, 'epoch', 1100)
    part = streams.raw_words(7, 'epoch', 50, start=start)
    np.testing.assert_array_equal(part, whole[start:start + 50])

  def test_streams_of_other_seeds_purposes_and_indices_differ(self):
    keys = [(s, p, i) for s in (0, 1, 2 ** 32, 2 ** 63) for i in (0, 1, 2 ** 32)
            for p in ('epoch', 'replicate')]
    words = {int(streams.raw_words(s, p, 1, index=i)[0]) for s, p, i in keys}
    self.assertLen(words, len(keys))

  def test_the_numbers_are_pinned(self):
    # Written down once: a resumed run must read the data it would have read.
    self.assertEqual(
        data.order(0, [0], 6, 100, sampling='epoch').tolist(),
        [[85, 1, 87, 75, 99, 36]])
    self.assertEqual(
        data.order(0, [0], 6, 100, sampling='replacement').tolist(),
        [[56, 19, 78, 50, 90, 13]])

  def test_below_covers_its_range_and_nothing_else(self):
    ends = np.array([0, 2 ** 64 - 1], np.uint64)
    for bound in (1, 2, 10, 1437, 2 ** 31 - 1):
      self.assertEqual(streams.below(ends, bound).tolist(), [0, bound - 1])


class OrderTest(parameterized.TestCase):

  @parameterized.parameters((10, 3), (7, 20), (64, 64), (1437, 16), (5, 1))
  def test_each_epoch_is_a_permutation_and_they_differ(self, examples, batch):
    steps = range(math.ceil(4 * examples / batch))
    read = data.order(3, steps, batch, examples, sampling='epoch').reshape(-1)
    epochs = read[:4 * examples].reshape(4, examples)
    for epoch in epochs:
      np.testing.assert_array_equal(np.sort(epoch), np.arange(examples))
    self.assertLen({tuple(epoch) for epoch in epochs.tolist()}, 4)

  @parameterized.parameters('epoch', 'replacement')
  def test_pure_in_the_step(self, sampling):
    steps = np.arange(40)
    whole = data.order(5, steps, 16, 100, sampling=sampling)
    self.assertEqual(whole.dtype, np.int32)
    resumed = data.order(5, steps[17:], 16, 100, sampling=sampling)
    np.testing.assert_array_equal(resumed, whole[17:])
    picked = [31, 2, 2, 39, 0]
    np.testing.assert_array_equal(
        data.order(5, picked, 16, 100, sampling=sampling), whole[picked])
    other = data.order(6, steps, 16, 100, sampling=sampling)
    self.assertFalse(np.array_equal(other, whole))

  @parameterized.parameters('epoch', 'replacement')
  def test_the_sequence_does_not_depend_on_the_batch_size(self, sampling):
    small = data.order(1, range(24), 5, 33, sampling=sampling)
    large = data.order(1, range(6), 20, 33, sampling=sampling)
    np.testing.assert_array_equal(small.reshape(-1), large.reshape(-1))

  def test_far_steps_and_no_steps(self):
    far = data.order(0, [10 ** 9], 256, 1_000, sampling='epoch')
    self.assertEqual(far.shape, (1, 256))
    for sampling in ('epoch', 'replacement'):
      self.assertEqual(
          data.order(0, [], 8, 10, sampling=sampling).shape, (0, 8))

  def test_replacement_is_uniform_and_independent(self):
    n, total = 20, 200_000
    read = data.order(9, range(total // 100), 100, n, sampling='replacement')
    counts = np.bincount(read.reshape(-1), minlength=n)
    error = math.sqrt(total * (1 / n) * (1 - 1 / n))
    self.assertLess(np.abs(counts - total / n).max(), 4 * error)
    # Neighbors coincide as often as independent draws do.
    flat = read.reshape(-1)
    same = (flat[1:] == flat[:-1]).mean()
    error = math.sqrt((1 / n) * (1 - 1 / n) / total)
    self.assertLess(abs(same - 1 / n), 4 * error)

  def test_first_place_of_an_epoch_is_uniform(self):
    first = [int(data.order(s, [0], 1, 8, sampling='epoch')[0, 0])
             for s in range(4_000)]
    error = math.sqrt(4_000 * (1 / 8) * (7 / 8))
    self.assertLess(
        np.abs(np.bincount(first, minlength=8) - 500).max(), 4 * error)

  @parameterized.parameters(
      dict(seed=-1), dict(seed=1.5), dict(seed=2 ** 64), dict(batch_size=0),
      dict(batch_size=True), dict(num_examples=0), dict(num_examples=2 ** 31),
      dict(steps=[-1]), dict(steps=[0.5]), dict(steps=3),
      dict(steps=[[1]]), dict(sampling='shuffle'))
  def test_bad_arguments(self, **bad):
    good = dict(seed=0, steps=[0], batch_size=2, num_examples=4,
                sampling='epoch')
    with self.assertRaisesRegex(ValueError, next(iter(bad))):
      data.order(**{**good, **bad})


class ReplicateTest(parameterized.TestCase):

  @parameterized.parameters(
      (100, 1), (100, 2), (100, 8), (101, 4), (1437, 1.5), (7, 7), (50, 1.0))
  def test_counts(self, examples, factor):
    indices = data.replicate(examples, factor, seed=2)
    self.assertLen(indices, examples)
    kept, counts = np.unique(indices, return_counts=True)
    self.assertLen(kept, round(examples / factor))
    mean = examples / len(kept)
    self.assertBetween(counts.min(), math.floor(mean), mean)
    self.assertBetween(counts.max(), mean, math.ceil(mean))

  def test_one_is_the_identity(self):
    np.testing.assert_array_equal(data.replicate(9, 1, 4), np.arange(9))

  def test_random_pure_and_nested(self):
    two, four = (data.replicate(400, factor, seed=1) for factor in (2, 4))
    np.testing.assert_array_equal(two, data.replicate(400, 2, seed=1))
    self.assertTrue(set(four) < set(two))
    self.assertFalse(np.array_equal(two, data.replicate(400, 2, seed=3)))

  @parameterized.parameters(
      dict(factor=0.5), dict(factor=11), dict(factor=float('nan')),
      dict(factor='2'), dict(num_examples=0), dict(seed=-3))
  def test_bad_arguments(self, **bad):
    good = dict(num_examples=10, factor=2, seed=0)
    with self.assertRaisesRegex(ValueError, next(iter(bad))):
      data.replicate(**{**good, **bad})


class FlipLabelsTest(parameterized.TestCase):

  @parameterized.product(rate=(0.0, 0.1, 0.333, 1.0), num_classes=(2, 10))
  def test_exactly_so_many_change(self, rate, num_classes):
    labels = (np.arange(1437) % num_classes).astype(np.int32)
    noisy = data.flip_labels(labels, rate, num_classes, seed=0)
    self.assertEqual((noisy != labels).sum(), round(rate * 1437))
    self.assertEqual(noisy.dtype, labels.dtype)
    self.assertBetween(noisy.min(), 0, num_classes - 1)
    self.assertBetween(noisy.max(), 0, num_classes - 1)
    np.testing.assert_array_equal(labels, np.arange(1437) % num_classes)

  def test_new_classes_are_uniform_and_the_seed_decides(self):
    labels = np.full([90_000], 3, np.uint8)
    noisy = data.flip_labels(labels, 1.0, 10, seed=5)
    counts = np.bincount(noisy, minlength=10)
    self.assertEqual(counts[3], 0)
    error = math.sqrt(90_000 * (1 / 9) * (8 / 9))
    self.assertLess(np.abs(np.delete(counts, 3) - 10_000).max(), 4 * error)
    again = data.flip_labels(labels, 1.0, 10, seed=5)
    np.testing.assert_array_equal(noisy, again)
    other = data.flip_labels(labels, 1.0, 10, seed=6)
    self.assertFalse(np.array_equal(noisy, other))

  @parameterized.parameters(
      dict(rate=-0.1), dict(rate=1.1), dict(rate=True), dict(num_classes=1),
      dict(labels=[0.5]), dict(labels=[[1]]), dict(labels=[4]), dict(seed=-1))
  def test_bad_arguments(self, **bad):
    good = dict(labels=[0, 1], rate=0.5, num_classes=3, seed=0)
    with self.assertRaisesRegex(ValueError, next(iter(bad))):
      data.flip_labels(**{**good, **bad})


class AugmentTest(parameterized.TestCase):

  @parameterized.parameters(
      (np.uint8, 'zero'), (np.float32, 'reflect'), (jnp.bfloat16, 'zero'))
  @pytest.mark.slow
  def test_shape_dtype_and_purity(self, dtype, padding):
    images = jnp.arange(5 * 8 * 6 * 3).reshape(5, 8, 6, 3).astype(dtype)
    key = jax.random.key(0)
    augment = lambda key, x: data.augment_cifar(key, x, padding=padding)
    out = augment(key, images)
    self.assertEqual((out.shape, out.dtype), (images.shape, images.dtype))
    np.testing.assert_array_equal(out, jax.jit(augment)(key, images))
    self.assertFalse(np.array_equal(out, augment(jax.random.key(1), images)))
    keys = jax.random.split(key, 2)
    both = jax.vmap(augment, in_axes=(0, None))(keys, images)
    np.testing.assert_array_equal(both[1], augment(keys[1], images))

  @parameterized.parameters('zero', 'reflect')
  def test_each_is_one_of_the_crops_and_all_occur(self, padding):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, [6, 6, 1], np.uint8)
    mode = {'zero': 'constant', 'reflect': 'reflect'}[padding]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
    crops = {}
    for flip in (False, True):
      for y in range(5):
        for x in range(5):
          crop = padded[y:y + 6, x:x + 6]
          crop = crop[:, ::-1] if flip else crop
          crops[np.ascontiguousarray(crop).tobytes()] = (y, x, flip)
    self.assertLen(crops, 50)
    images = np.repeat(image[None], 2_000, axis=0)
    out = np.asarray(data.augment_cifar(
        jax.random.key(3), images, padding=padding, pad=2))
    seen = [crops[crop.tobytes()] for crop in out]
    self.assertLen(set(seen), 50)
    flips = sum(flip for _, _, flip in seen)
    self.assertLess(abs(flips - 1_000), 4 * math.sqrt(2_000 / 4))

  def test_bad_arguments(self):
    images, key = jnp.zeros([2, 8, 8, 1]), jax.random.key(0)
    with self.assertRaisesRegex(ValueError, 'images'):
      data.augment_cifar(key, images[0])
    with self.assertRaisesRegex(ValueError, 'padding'):
      data.augment_cifar(key, images, padding='edge')
    with self.assertRaisesRegex(ValueError, 'pad'):
      data.augment_cifar(key, images, pad=8)


class StandardizeTest(parameterized.TestCase):

  @parameterized.parameters(np.uint8, np.float32)
  def test_statistics_standardize(self, dtype):
    rng = np.random.default_rng(1)
    scale = np.array([255, 80, 9]).reshape(1, 1, 1, 3)
    images = (rng.random([300, 9, 7, 3]) * scale).astype(dtype)
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2), np.float64), 1e-6)
    np.testing.assert_allclose(std, images.std((0, 1, 2), np.float64), 1e-6)
    out = jax.jit(data.standardize)(images, mean, std)
    self.assertEqual(out.dtype, jnp.float32)
    np.testing.assert_allclose(out.mean((0, 1, 2)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), np.ones(3), rtol=1e-5)

  def test_chunks_do_not_show(self):
    # 30 MB of uint8 are fifteen chunks once they are float64.
    images = np.random.default_rng(0).integers(
        0, 256, [10_000, 32, 32, 3], np.uint8)
    mean, std = data.channel_statistics(images)
    values = np.arange(256)
    for channel in range(3):
      counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
      expected = (counts * values).sum() / counts.sum()
      spread = (counts * (values - expected) ** 2).sum() / counts.sum()
      np.testing.assert_allclose(mean[channel], expected, rtol=1e-7)
      np.testing.assert_allclose(std[channel], math.sqrt(spread), rtol=1e-7)

  def test_numbers_serve_any_number_of_channels(self):
    images = np.full([2, 3, 3, 1], 200, np.uint8)
    np.testing.assert_allclose(
        data.standardize(images, 100, 50), np.full([2, 3, 3, 1], 2.0))

  def test_bad_arguments(self):
    images = np.zeros([2, 3, 3, 3], np.uint8)
    with self.assertRaisesRegex(ValueError, 'mean'):
      data.standardize(images, np.zeros(2), 1)
    with self.assertRaisesRegex(ValueError, 'std'):
      data.standardize(images, 0, np.array([1, 0, 1]))
    for bad in (images[0], images[:0], 3):
      with self.assertRaisesRegex(ValueError, 'images'):
        data.channel_statistics(bad)


class TextTest(absltest.TestCase):

  def test_round_trip(self):
    printable = '\n' + ''.join(map(chr, range(32, 127)))
    tokens = data.encode_text(printable)
    self.assertEqual(tokens.tolist(), list(range(1, data.VOCAB_SIZE)))
    self.assertEqual(data.decode_text(tokens), printable)
    self.assertEqual(data.decode_text(data.encode_text('‘a’—é')), "'a'-\ufffd")

  def test_bad_tokens(self):
    for bad in ([97], [-1], [[1]], [0.5]):
      with self.assertRaisesRegex(ValueError, 'tokens'):
        data.decode_text(np.array(bad))


if __name__ == '__main__':
  absltest.main()
