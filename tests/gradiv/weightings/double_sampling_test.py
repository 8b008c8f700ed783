"""MoDo and SDMGrad, against their steps in NumPy, and MGDA as their limit."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules


def project(y):
  """Find the nearest point of the simplex, by its one unknown."""
  level = scipy.optimize.brentq(
    lambda t: np.maximum(y - t, 0).sum() - 1, y.min() - 2, y.max())
  return np.maximum(y - level, 0)


class DoubleSamplingTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.LOSS_KINDS)
  def test_modo_takes_projected_steps(self, kind):
    rows = inputs.losses(kind, 5) / 10
    gram, w, state = rows @ rows.T, np.full(5, .2), None
    for _ in range(3):
      weights, state = rules.step('modo', gram, state=state)
      w = project(w - .1 * (gram @ w + .1 * w))
      np.testing.assert_allclose(weights, w, 1e-4, 1e-5)

  @parameterized.parameters((10., 2), (1., 20))
  def test_sdmgrad_takes_projected_steps_with_momentum(self, size, count):
    rule = weightings.sdmgrad(.3, size, .5, count)
    step, present = rules.jit_step(rule), np.ones(5, bool)
    for kind in inputs.LOSS_KINDS:
      gram, w = inputs.gram_of(inputs.losses(kind, 5)), np.full(5, .2)
      a, state = gram / np.sqrt(np.diag(gram)).mean()**2, rule.init(5)
      for _ in range(2):
        weights, state = step(gram, present, state, None)
        velocity = 0
        for _ in range(count):
          velocity = .5 * velocity + a @ (w + .3 / 5)
          w = project(w - size * velocity)
        np.testing.assert_allclose(
          weights, (w + .3 / 5) / 1.3, 0, 2e-3, kind)

  def test_modo_arrives_at_mgda(self):
    gram = inputs.gram_of(inputs.losses('aligned', 5) / 20)
    rule = weightings.modo(.5, 0.)
    weights, present = rule.init(5), np.ones(5, bool)
    step = rules.jit_step(rule)
    for _ in range(300):
      weights, _ = step(gram, present, weights, None)
    np.testing.assert_allclose(weights, rules.weigh('mgda', gram), 0, 1e-3)

  def test_a_matrix_of_two_batches_need_not_be_symmetric(self):
    x, y = inputs.losses('random', 5) / 10, inputs.losses('aligned', 5) / 10
    weights = np.asarray(rules.compiled(weightings.modo)(x @ y.T))
    np.testing.assert_allclose(
      weights, project(.2 - .1 * (x @ y.T @ np.full(5, .2) + .02)), 1e-4, 1e-5)

  @parameterized.parameters(
    (lambda: weightings.modo(0.), 'step_size'),
    (lambda: weightings.modo(decay=-1.), 'decay'),
    (lambda: weightings.sdmgrad(-1.), 'strength'),
    (lambda: weightings.sdmgrad(momentum=1.), 'momentum'),
    (lambda: weightings.sdmgrad(num_steps=0), 'num_steps'))
  def test_arguments_are_named(self, make, name):
    with self.assertRaisesRegex(ValueError, f'^{name}='):
      make()


if __name__ == '__main__':
  absltest.main()
