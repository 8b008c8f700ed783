"""Nash-MTL, against SciPy's bargaining solution."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules


def nash_mtl(rows):
  """Minimize ½‖Jᵀw‖² − Σ log w_i over y = log w."""
  def value(y):
    update = np.exp(y) @ rows
    return update @ update / 2 - y.sum()

  def slope(y):
    return np.exp(y) * (rows @ (np.exp(y) @ rows)) - 1

  def hessian(y):
    long = np.exp(y)[:, None] * rows
    return long @ long.T + np.diag(slope(y) + 1)

  start = -np.log(np.linalg.norm(rows, axis=1))
  found = scipy.optimize.minimize(
    value, start, jac=slope, hess=hessian, method='trust-exact',
    options=dict(gtol=1e-11, maxiter=500))
  return np.exp(found.x)


class NashMTLTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        best = nash_mtl(rows)
        np.testing.assert_allclose(best * (rows @ (best @ rows)), 1, 1e-6)
        w = rules.weigh('free nash_mtl', rows @ rows.T).astype(float)
        np.testing.assert_allclose(w * (rows @ (w @ rows)), 1, 5e-4)
        d = best @ rows
        for got, expected in (
            (w @ rows, d), (rules.update('nash_mtl', rows), d / np.sqrt(n))):
          self.assertLess(
            np.linalg.norm(got - expected), 5e-5 * np.linalg.norm(expected))

  @parameterized.product(n=(2, 5), kind=inputs.SOLVABLE)
  def test_lengths_of_gradients_do_not_matter(self, n, kind):
    rows = inputs.losses(kind, n)
    scales = np.geomspace(0.01, 100, n)[:, None]
    d, other = (rules.update('free nash_mtl', x)
                for x in (rows, scales * rows))
    np.testing.assert_allclose(d, other, 0, 2e-4 * np.abs(d).max())
    self.assertAlmostEqual(np.linalg.norm(d), np.sqrt(n), 4)
    self.assertAlmostEqual(
      np.linalg.norm(rules.update('nash_mtl', rows)), 1, 4)

  def test_max_norm_is_positive(self):
    with self.assertRaisesRegex(ValueError, 'max_norm'):
      weightings.nash_mtl(0.)


if __name__ == '__main__':
  absltest.main()
