"""Controllers reach the batch size that their formula gives."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv.scaling import controllers as lib
from gradiv.scaling.controllers import inner_products
from tests import helpers
from tests.gradiv.scaling.controllers.cases import (
  FROM_READINGS,
  LADDER,
  PROBLEM,
  Quadratic,
  follow,
  readings,
  sizes,
)


class ReachTest(parameterized.TestCase):
  """On a quadratic with known Σ, from samples of 32 examples."""

  @parameterized.named_parameters(*FROM_READINGS)
  def test_reaches_its_formula(self, control, formula, expected):
    estimate = gradiv.Estimate(PROBLEM.signal, PROBLEM.noise)
    exact = {
      lib.NoiseScale: lambda: control.multiple * gradiv.noise_scale(estimate),
      lib.NormTest: lambda: gradiv.norm_test_batch_size(
        estimate, control.theta),
      lib.DiveBatch: lambda: control.delta * gradiv.batch_size_bound(estimate),
    }[type(control)]()
    np.testing.assert_allclose(exact, formula, 1e-5)
    states = follow(control, readings())
    self.assertEqual(states[-1].batch_size, expected)
    self.assertEqual(states[-1].num_updates, 40)
    self.assertEqual(states[-1].num_changes, sum(
      a != b for a, b in itertools.pairwise(sizes(states))))

  def test_cabs_reaches_its_formula(self):
    control = lib.Cabs(ladder=LADDER, lowest=.5)
    # 0.4 · 120 / (2 − 0.5) = 32, and twice that at half of the gap.
    states = follow(control, readings(), loss=2., learning_rate=.4)
    self.assertEqual(states[-1].batch_size, 32)
    states = follow(control, readings(), states[-1], loss=1.25,
                    learning_rate=.4)
    self.assertEqual(states[-1].batch_size, 64)

  def test_loss_driven_reaches_its_formula(self):
    control = lib.LossDriven(ladder=LADDER, start=8, lowest=1.)
    # 8 · (5 − 1)/(F − 1), rounded up: 8, 16, 40 → 64, all.
    states = follow(control, [5., 3., 1.8, 1.])
    self.assertEqual(sizes(states), [8, 8, 16, 64, 1024])

  @parameterized.parameters((None, 1.0), (1.0, 1.0), (.5, 2.0))
  def test_inner_product_test_reaches_its_formula(self, nu, theta):
    problem = Quadratic([2, 0, 0], [24, 40, 40])
    along, square = 24 * 4, 16
    formula = along / square / theta**2
    if nu:
      formula = max(formula, (104 - along / 4) / 4 / nu**2)
    control = lib.InnerProductTest(
      ladder=lib.Ladder(1, 1024), theta=theta, nu=nu, decay=.99)
    states = follow(
      control, [g @ g.T for g in problem.grads(300, 128)])
    self.assertEqual(states[-1].batch_size, control.ladder.at_least(formula))
    # As gradients shrink by a thousand, nothing of this changes.
    scales = np.geomspace(1, 1e-3, 300)[:, None, None]
    smaller = follow(
      control, [g @ g.T for g in scales * problem.grads(300, 128)])
    self.assertEqual(smaller[-1].batch_size, states[-1].batch_size)

  def test_statistics_of_the_inner_products_have_no_bias(self):
    problem = Quadratic([1, 1], [2, 5])
    found = [inner_products._statistics(g @ g.T)[0]
             for g in problem.grads(5_000, 5)]
    # (tr Σ + G) G, μᵀΣμ + G², G².
    helpers.assert_mean(found, [(7 + 2) * 2, 7 + 4, 4])

  def test_divebatch_as_published_takes_the_moments_of_an_epoch(self):
    control = lib.DiveBatch(ladder=LADDER, delta=.1, denominator='published')
    epoch = lambda of_mean: gradiv.Moments(
      1000., 1., np.float32(of_mean), np.float32(2.))
    # 0.1 · (0.01 + 2)/0.01 = 20.1; it never shrinks; cancelled, it is all.
    states = follow(control, [epoch(.01), epoch(.001), epoch(.01), epoch(0.)])
    self.assertEqual(sizes(states), [4, 16, 256, 256, 1024])

  def test_seesaw_trades_halvings_for_doublings(self):
    schedule = lambda n: min(1., n / 10) * .5 ** (max(n - 10, 0) / 100)
    control = lib.Seesaw(ladder=lib.Ladder(4, 16), schedule=schedule)
    states = follow(control, [0, 5, 10, 109, 110, 210, 310, 410])
    self.assertEqual(sizes(states), [4, 4, 4, 4, 4, 8, 16, 16, 16])
    np.testing.assert_allclose(
      [control.rate(state) for state in states[1:]],
      [0, .5, 1, 1, .5**.5, .5, .25, .125])
    # As many examples at γ/√(2B), twice, make the noise of γ/2 at B.
    self.assertEqual(states[-1].num_halvings, 4)


if __name__ == '__main__':
  absltest.main()
