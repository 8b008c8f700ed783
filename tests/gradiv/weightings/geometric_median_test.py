"""The geometric median, against Weiszfeld's method on the gradients."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import geometric_median
from tests.gradiv.weightings import inputs, rules

median = lambda gram: rules.weigh('geometric_median', gram)


def half_radius(x):
  return np.sort(inputs.distances(x), 1)[:, len(x) // 2].min()


def weiszfeld(x, smoothing, num_steps=3000):
  z, floor = np.median(x, 0), max(smoothing * half_radius(x), 1e-19)
  for _ in range(num_steps):
    pull = 1 / np.maximum(floor, np.linalg.norm(x - z, axis=1))
    z = pull @ x / pull.sum()
  return z


class GeometricMedianTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.KINDS:
      with self.subTest(kind):
        x = inputs.hard(kind, n)
        w = median(inputs.gram_of(x, centered=kind == 'duplicates'))
        z, expected = np.float64(w) @ x, weiszfeld(x, 1e-3)
        self.assertAlmostEqual(float(w.sum()), 1, 5)
        self.assertGreaterEqual(w.min(), 0)
        np.testing.assert_allclose(
          np.linalg.norm(x - z, axis=1).sum(),
          np.linalg.norm(x - expected, axis=1).sum(), 1e-4, 1e-6 * n)
        if n > 2 and kind != 'line':  # Elsewhere there are several minima.
          self.assertLess(
            np.linalg.norm(z - expected), .02 * half_radius(x) + 1e-6)

  @parameterized.parameters(5, 16)
  def test_pulls_cancel_at_the_median(self, n):
    x = inputs.hard('offset', n, dim=40)
    away = x - np.float64(median(inputs.gram_of(x))) @ x
    pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0)
    self.assertLess(np.linalg.norm(pull), 1e-3)

  def test_a_majority_that_coincides_is_the_median(self):
    x = np.array([[1., 2], [1, 2], [1, 2], [50, 3], [-9, 0]])
    w = median(inputs.gram_of(x - x[0]))
    np.testing.assert_allclose(w @ x, x[0], 1e-5)

  @parameterized.parameters(
    (dict(num_steps=0), 'num_steps'), (dict(smoothing=0.), 'smoothing'))
  def test_bad_arguments_are_named(self, given, argument):
    with self.assertRaisesRegex(ValueError, argument):
      geometric_median(**given)


if __name__ == '__main__':
  absltest.main()
