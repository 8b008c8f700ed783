"""Adasum, against its tree of sums on the gradients."""

import numpy as np
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.inputs import EPS


def add(a, b):
  """Add (vector, Σ of its terms' lengths, Σ of (that / length)² so far)."""
  (u, *_), (v, *_) = a, b
  total = reach = loss = 0
  for x, reach_x, loss_x in a, b:
    square = x @ x
    c = 1 - u @ v / (2 * square) if square else 1
    total, reach = total + c * x, reach + abs(c) * reach_x
    loss += loss_x + (reach_x ** 2 / square if square else 0)
  return total, reach, loss


def adasum(x):
  """Return the sum over the tree, and how far float32 may be from it."""
  def tree(x):
    if len(x) == 1:
      return x[0], np.linalg.norm(x[0]), 0
    half = 1 << (len(x) - 1).bit_length() - 1
    return add(tree(x[:half]), tree(x[half:]))

  total, reach, loss = tree(x)
  # A square is off by ε (Σ of its terms' lengths)², and so, to first order,
  # all that it shortens by ε times `loss`; the weights are rounded as well.
  return total, EPS * reach * (1 + loss)


class AdasumTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.KINDS:
      x = inputs.hard(kind, n)
      for present in filter(np.any, inputs.absences(n)):
        with self.subTest(f'{kind} {present}'):
          w = np.float64(rules.weigh('adasum', inputs.gram_of(x), present))
          expected, error = adasum(x[present])
          self.assertLessEqual(np.linalg.norm(w @ x - expected), error)
          if kind != 'line':  # There sums cancel, and little can be known.
            self.assertLessEqual(error, 2e-4 * np.linalg.norm(x, 2))

  def test_gradients_that_cancel_leave_the_sum_of_the_others(self):
    for x in inputs.several('random', 5, 16):
      x[1] = -(1 + 1e-5) * x[0]
      expected, error = adasum(x[2:])
      error += 2e-5 * np.linalg.norm(x[0])  # Left of the two, and rounding.
      self.assertLess(
        np.linalg.norm(rules.update('adasum', x) - expected), error)

  def test_orthogonal_gradients_add_and_equal_ones_average(self):
    self.assertEqual(
      rules.weigh('adasum', np.diag(np.arange(5) ** 2.)).tolist(), [1] * 5)
    same = rules.weigh('adasum', np.full((5, 5), 3.))
    self.assertAlmostEqual(float(same.sum()), 1, 6)

  def test_two_commute(self):
    two, x = np.array([1, 0, 0, 1, 0], bool), inputs.hard('random', 5)
    w = rules.weigh('adasum', inputs.gram_of(x), two)
    swapped = rules.weigh('adasum', inputs.gram_of(x[::-1]), two[::-1])
    np.testing.assert_allclose(swapped[::-1], w, 4 * EPS)


if __name__ == '__main__':
  absltest.main()
