"""Exponential averages, against the weighted sums that they are."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

import gradiv
from gradiv.diversity import averages


class AveragesTest(absltest.TestCase):

  def test_debiased_and_never_clipped(self):
    rng = np.random.default_rng(0)
    g, s = rng.normal(0, 1, 30), rng.normal(5, 1, 30)
    sums = averages.init()
    for x, y in zip(g, s):
      sums = averages.update(
        sums, gradiv.Estimate(jnp.float32(x), jnp.float32(y)), .9)
    weights = .9 ** np.arange(30)[::-1]
    found = averages.average(sums)
    np.testing.assert_allclose(
      found.sq_norm, weights @ g / weights.sum(), 1e-5, 1e-6)
    np.testing.assert_allclose(
      found.variance, weights @ s / weights.sum(), 1e-5)
    np.testing.assert_allclose(averages.last(sums), [g[-1], s[-1]], 1e-6)

  def test_unknown_before_the_first_step(self):
    for found in (averages.average(averages.init()),
                  averages.last(averages.init())):
      self.assertTrue(np.isnan(found).all())


if __name__ == '__main__':
  absltest.main()
