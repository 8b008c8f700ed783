"""Centered clipping, against its definition on the gradients."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import centered_clipping
from tests.gradiv.weightings import inputs, rules


def clip_around(x, v, radius, num_steps):
  for _ in range(num_steps):
    d = np.linalg.norm(x - v, axis=1)[:, None]
    v = v + ((x - v) * np.minimum(1, radius / np.maximum(d, 1e-99))).mean(0)
  return v


class CenteredClippingTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.KINDS:
      with self.subTest(kind):
        x = inputs.hard(kind, n + 1)
        w = rules.weigh('centered_clipping', inputs.gram_of(x))
        expected = clip_around(x[:-1], x[-1], .5, 4)
        self.assertAlmostEqual(float(w.sum()), 1, 5)
        np.testing.assert_allclose(
          np.float64(w) @ x, expected, 1e-4,
          1e-5 * np.median(np.abs(x)) + 1e-5)

  def test_weights_scale_with_the_radius(self):
    x = inputs.hard('offset', 6)
    weigh = lambda r, x: rules.compiled(centered_clipping, r, 3)(
      inputs.gram_of(x))
    for s in (1e-15, 1e15):
      np.testing.assert_allclose(weigh(2. * s, s * x), weigh(2., x), 1e-4)

  @parameterized.parameters(1, 5)
  def test_a_gram_of_zeros_gives_weights_of_one_in_sum(self, n):
    # As of a tree without leaves: there is nothing to clip.
    w = rules.weigh('centered_clipping', np.zeros((n + 1, n + 1)))
    self.assertAlmostEqual(float(w.sum()), 1, 5)

  @parameterized.parameters(
    (dict(radius=-1.), 'radius'), (dict(radius=1., num_steps=0), 'num_steps'))
  def test_bad_arguments_are_named(self, given, argument):
    with self.assertRaisesRegex(ValueError, argument):
      centered_clipping(**given)


if __name__ == '__main__':
  absltest.main()
