"""The distance that is allowed to a mean of several gradients."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import joining


def cosine(x, y):
  return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


class JoiningTest(parameterized.TestCase):

  @parameterized.parameters(0.9, 0.97)
  def test_count_aware_limit_is_where_iid_gradients_stand(self, tau):
    """At noise r = τ/(1 − τ), a mean of c and a single one are so far apart."""
    rng = np.random.default_rng(6)
    ratio, dim = tau / (1 - tau), 100_000
    for count in (1, 4, 16):
      draw = lambda: rng.normal(size=dim) * np.sqrt(ratio / dim)
      mu = np.zeros(dim)
      mu[0] = 1
      mean = mu + np.mean([draw() for _ in range(count)], 0)
      found = 1 - cosine(mean, mu + draw())
      allowed = float(joining.allowed_distance(
        jnp.float32(tau), 1 / count, True))
      self.assertAlmostEqual(allowed, found, delta=4 / np.sqrt(dim))
      self.assertLessEqual(allowed, tau + 1e-6)

  def test_weights_of_the_aggregate_and_of_what_joins_sum_to_one(self):
    for combine, expected in (('running_mean', (0, 1 / 2, 2 / 3)),
                              ('halving', (0, 1 / 2, 1 / 2))):
      for size, keep in enumerate(expected):
        weights = joining.joining_weights(combine, jnp.int32(size))
        np.testing.assert_allclose(weights, (keep, 1 - keep), 1e-6)


if __name__ == '__main__':
  absltest.main()
