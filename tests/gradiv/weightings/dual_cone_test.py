"""UPGrad and DualProj, against SciPy's projections of the gradients."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv.weightings import dual_cone
from tests.gradiv.weightings import inputs, rules

RIDGE = 1e-4


def lengthened(rows):
  """Scale to a Frobenius norm of one, and add a direction for each row."""
  return np.hstack([
    rows / np.linalg.norm(rows), np.sqrt(RIDGE) * np.eye(len(rows))])


def onto_cone(vector, rows):
  """Return u ≥ 0 such that vector + Jᵀu is its projection."""
  return scipy.optimize.nnls(rows.T, -vector, maxiter=1000)[0]


def upgrad(rows):
  long = lengthened(rows)
  u = sum(onto_cone(row, long) for row in long)
  return (rows.T @ (1 + u)) / len(rows)


def dual_proj(rows):
  long = lengthened(rows)
  return rows.mean(0) + rows.T @ onto_cone(long.mean(0), long)


class DualConeTest(parameterized.TestCase):

  @parameterized.product(
    n=inputs.SIZES, rule=(('upgrad', upgrad), ('dual_proj', dual_proj)))
  def test_definition(self, n, rule):
    name, reference = rule
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        expected = reference(rows)
        self.assertLess(
          np.linalg.norm(rules.update(name, rows) - expected),
          1e-5 * np.linalg.norm(expected))

  @parameterized.product(name=('upgrad', 'dual_proj'), n=(2, 5))
  def test_the_update_conflicts_with_none(self, name, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        weights = rules.weigh(name, rows @ rows.T).astype(float)
        # The bound of the docstring, and rounding.
        slack = RIDGE * weights * np.sum(rows**2)
        rounding = 1e-5 * (np.abs(rows @ rows.T) @ weights)
        self.assertTrue(
          (rows @ (weights @ rows) >= -slack - rounding).all())

  @parameterized.product(rule=(dual_cone.upgrad, dual_cone.dual_proj),
                         ridge=(0., float('inf')))
  def test_the_ridge_is_positive_and_finite(self, rule, ridge):
    with self.assertRaisesRegex(ValueError, 'ridge'):
      rule(ridge=ridge)


if __name__ == '__main__':
  absltest.main()
