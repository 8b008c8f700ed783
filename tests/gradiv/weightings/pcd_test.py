"""PCD, against SciPy's solution of its quadratic program."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules


def follow(rows, tau):
  """Minimize |d − g_1| over ⟨g_j, d⟩ ≥ τ|g_j|², of unit gradients."""
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  q = np.linalg.qr(unit.T)[0]
  unit = unit @ q
  found = scipy.optimize.minimize(
    lambda d: np.sum((d - unit[0])**2) / 2, unit[0], jac=lambda d: d - unit[0],
    method='SLSQP', options=dict(maxiter=500, ftol=1e-14), constraints=dict(
      type='ineq', fun=lambda d: unit[1:] @ d - tau, jac=lambda d: unit[1:]))
  d = q @ found.x
  return d / np.linalg.norm(d) * np.linalg.norm(rows[0])


class PCDTest(parameterized.TestCase):

  @parameterized.product(n=(2, 5), kind=inputs.SOLVABLE)
  def test_definition(self, n, kind):
    rows = inputs.losses(kind, n)
    d, expected = rules.update('pcd', rows), follow(rows, .5)
    self.assertLess(
      np.linalg.norm(d - expected), 5e-3 * np.linalg.norm(expected))

  def test_no_constraint_in_the_way_leaves_the_first_gradient(self):
    rows = np.array([[2., 1], [1, 1], [3, 0]])
    np.testing.assert_allclose(
      rules.update('pcd', rows), rows[0], 1e-4)

  def test_without_a_solution_the_first_gradient(self):
    rows = np.array([[1., 2, 0], [0, 0, 1], [0, 0, -1]])
    np.testing.assert_allclose(rules.update('pcd', rows), rows[0], 1e-4)

  def test_a_first_gradient_of_zero_stops(self):
    rows = np.array([[0., 0], [1, 1]])
    self.assertFalse(rules.update('pcd', rows).any())

  def test_others_are_measured_by_their_average_length(self):
    rows = np.array([[1., 0], [0, 1]])
    rule = weightings.pcd(.5, decay=.5)
    step, present = rules.jit_step(rule), np.ones(2, bool)
    state = rule.init(2)
    for scale in (1, 3):
      x = np.float32(rows * [[1], [scale]])
      w, state = step(x @ x.T, present, state, None)
    # (½·1 + 9)/(2 − ½) … without bias: (.25·1 + .5·9)/.75 = 19/3.
    length = 3 / np.sqrt(19 / 3)
    expected = np.array([1, .5 * length**2 / length])
    np.testing.assert_allclose(
      w @ x, expected / np.linalg.norm(expected), 1e-4)

  @parameterized.parameters('progress', 'decay', 'eps')
  def test_arguments_are_named(self, name):
    with self.assertRaisesRegex(ValueError, f'^{name}='):
      weightings.pcd(**{name: -1.})


if __name__ == '__main__':
  absltest.main()
