"""Class-balanced micro-batches: balanced, distinct, uniform, and repeatable."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments import data

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [4, 6, 30]))


def rows(steps, seed=3, per_class=2, num_batches=2):
  return data.balanced_order(
    seed, steps, LABELS, num_classes=3, per_class=per_class,
    num_batches=num_batches)


class BalancedOrderTest(parameterized.TestCase):

  def test_each_micro_batch_is_balanced_and_no_example_comes_twice(self):
    drawn = rows(range(200))
    self.assertEqual((drawn.shape, drawn.dtype), ((200, 12), np.int32))
    for micro_batch in LABELS[drawn].reshape(-1, 6):
      self.assertEqual(np.bincount(micro_batch).tolist(), [2, 2, 2])
    self.assertTrue((np.diff(np.sort(drawn, 1), axis=1) > 0).all())

  def test_all_examples_at_all_places_alike(self):
    drawn = rows(range(6000)).reshape(6000, 2, 3, 2)
    for label, count in enumerate(np.bincount(LABELS)):
      for place in drawn[:, :, label].reshape(6000, 4).T:
        seen = np.bincount(place, minlength=40)[LABELS == label]
        expected = 6000 / count
        self.assertLess(np.sum((seen - expected)**2) / expected,
                        count + 4.5 * np.sqrt(2 * count))

  def test_pairs_are_uniform(self):
    """Of a class of four, all six pairs, in either micro-batch."""
    drawn = rows(range(6000)).reshape(6000, 2, 3, 2)[:, :, 0]
    for micro_batch in (0, 1):
      pairs = np.sort(drawn[:, micro_batch], 1)
      _, seen = np.unique(pairs, axis=0, return_counts=True)
      self.assertLen(seen, 6)
      self.assertLess(np.sum((seen - 1000)**2 / 1000), 25)

  def test_a_function_of_the_step(self):
    np.testing.assert_array_equal(rows([7, 3, 4]), rows(range(9))[[7, 3, 4]])
    self.assertTrue((rows([0]) != rows([0], seed=4)).any())
    self.assertEqual(rows([]).shape, (0, 12))

  @parameterized.parameters(
    (dict(per_class=3), r'needs at least 6 examples.*\[4, 6, 30\]'),
    (dict(per_class=0), 'per_class'),
    (dict(num_batches=-1), 'num_batches'),
    (dict(steps=[-1]), 'steps'),
  )
  def test_bad_arguments(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      rows(**dict(steps=[0]) | kwargs)


if __name__ == '__main__':
  absltest.main()
