"""FairGrad, against the equation that defines it."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules


class FairGradTest(parameterized.TestCase):

  @parameterized.product(n=inputs.SIZES, alpha=(.5, 1., 2.))
  def test_definition(self, n, alpha):
    rule = rules.compiled(weightings.fairgrad, alpha)
    for kind in inputs.SOLVABLE:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        w = np.float64(rule(inputs.gram_of(rows)))
        gains = rows @ (w @ rows)
        self.assertGreater(w.min(), 0)
        # Rows that nearly are parallel differ by no more than the ridge.
        np.testing.assert_allclose(
          gains * w**(1 / alpha), 1, 2e-2 if kind == 'near duplicates'
          else 2e-4)

  def test_one_is_the_bargaining_solution(self):
    gram = inputs.gram_of(inputs.losses('aligned', 5))
    np.testing.assert_allclose(
      rules.compiled(weightings.fairgrad, 1.)(gram),
      rules.weigh('free nash_mtl', gram), 1e-4)

  def test_more_fairness_raises_the_smallest_gain(self):
    rows = inputs.losses('scaled', 5)
    worst = []
    for alpha in (.5, 1., 4.):
      d = rules.compiled(weightings.fairgrad, alpha)(inputs.gram_of(rows)) @ (
        rows)
      worst.append((rows @ d).min() / np.linalg.norm(d))
    self.assertEqual(worst, sorted(worst))

  def test_a_zero_gradient_gets_no_weight(self):
    w = rules.weigh('fairgrad', np.diag([1., 0, 8]))
    np.testing.assert_allclose(w, [1, 0, .25], 1e-4)

  def test_alpha_is_named(self):
    with self.assertRaisesRegex(ValueError, '^alpha='):
      weightings.fairgrad(0.)


if __name__ == '__main__':
  absltest.main()
