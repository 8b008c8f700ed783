"""What the usual plug-in statistics would make a controller do."""

import math

import numpy as np
from absl.testing import absltest

import gradiv
from gradiv.scaling import controllers as lib
from tests import helpers
from tests.gradiv.scaling.controllers.cases import (
  LADDER,
  PROBLEM,
  follow,
  reading,
  readings,
)


class BiasTest(absltest.TestCase):

  def test_case_36_the_norm_test_is_the_noise_scale_rule(self):
    """At the largest θ that passes, the rule asks for the batch itself."""
    grads = PROBLEM.grads(1, 16)[0]
    mean = grads.mean(0)
    variance = np.sum((grads - mean)**2) / 15
    theta = math.sqrt(variance / 16 / np.sum(mean**2))
    plug_in = gradiv.Estimate(np.sum(mean**2), variance)
    np.testing.assert_allclose(
      gradiv.norm_test_batch_size(plug_in, theta), 16, 1e-5)
    np.testing.assert_allclose(
      gradiv.noise_scale(plug_in) / theta**2, 16, 1e-5)

  def test_case_38_consecutive_gradients_are_no_sample(self):
    """⟨g_t, g_{t+1}⟩ is ‖∇F‖² − γ(∇FᵀH∇F + tr HΣ/B) on a quadratic."""
    rng = np.random.default_rng(0)
    curvature, params = np.array([1., 3.]), np.array([2., -1.])
    stddev, batch, rate = np.array([2., 1.]), 4, .1
    noise = stddev / batch**.5 * rng.normal(size=(2, 200_000, 2))
    first = curvature * params + noise[0]
    second = curvature * (params - rate * first) + noise[1]
    mean = (first + second) / 2
    pair = gradiv.Moments(
      2., batch, np.sum(mean**2, 1), np.sum((first - second)**2, 1) / 4)
    slope = curvature * params
    bias = -rate * (slope @ (curvature * slope)
                    + np.sum(curvature * stddev**2) / batch)
    helpers.assert_mean(np.asarray(gradiv.estimate(pair).sq_norm, float),
                 slope @ slope + bias)

  def test_case_39_a_signal_with_noise_holds_the_batch_down(self):
    """With ‖g_B‖² for ‖∇F‖², no batch below the noise scale seems too small."""
    batch = 16
    grads = PROBLEM.grads(20_000, batch)
    mean = grads.mean(1)
    variance = np.sum((grads - mean[:, None])**2, (1, 2)) / (batch - 1)
    inflated = PROBLEM.signal + PROBLEM.noise / batch
    helpers.assert_mean(np.sum(mean**2, -1), inflated)
    helpers.assert_mean(variance, PROBLEM.noise)
    plug_in = PROBLEM.noise / inflated
    np.testing.assert_allclose(plug_in, 60 / (1 + 60 / batch))
    self.assertLess(plug_in, batch)
    control = lib.NoiseScale(ladder=LADDER, start=batch)
    biased = follow(control, [reading(plug_in, plug_in * 1.001)])
    self.assertEqual(biased[-1].batch_size, batch)
    self.assertEqual(follow(control, readings())[-1].batch_size, 64)


if __name__ == '__main__':
  absltest.main()
