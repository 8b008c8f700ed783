"""Variance within and between clusters, against known components."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import diversity
from tests import helpers

SIZES = np.array([2, 3, 5, 8, 1, 4, 2, 7])
CLUSTERS = np.repeat(np.arange(len(SIZES)), SIZES)
WEIGHTS = np.random.default_rng(1).integers(1, 6, len(CLUSTERS)).astype('f')
BETWEEN, WITHIN = 2., 6.
# Uneven, and with coordinates that are correlated.
MIX = np.random.default_rng(2).normal(size=(12, 12))
MIX /= np.linalg.norm(MIX)
MEAN = np.full(12, .4)


def draw(runs, weights, seed=0):
  """Draw [runs, n, 12] with tr Cov a = BETWEEN, tr Cov e_ij = WITHIN/w_ij."""
  rng = np.random.default_rng(seed)
  noise = lambda *shape: rng.normal(size=(runs, *shape, 12)) @ MIX
  own = np.sqrt(BETWEEN) * noise(len(SIZES))
  rest = np.sqrt(WITHIN / weights)[:, None] * noise(len(CLUSTERS))
  return np.float32(MEAN + own[:, CLUSTERS] + rest)


def naive(g, clusters, w):
  """The three sums of squares in float64, cluster by cluster."""
  g, mean = g.astype(float), w @ g / w.sum()
  rows = []
  for k in np.unique(clusters):
    mine, v = g[clusters == k], w[clusters == k]
    own = v @ mine / v.sum()
    rows.append((len(mine), v.sum(), v @ np.sum((mine - own)**2, 1),
                 np.sum((own - mean)**2), (own - mean) @ mean))
  return diversity.NestedMoments(*np.array(rows).T, mean @ mean)


@jax.jit
def estimated(g, weights):
  def one(g):
    moments = gradiv.nested_moments(g @ g.T, CLUSTERS, weights=weights)
    return (gradiv.nested_estimate(moments),
            diversity.nested_intervals(moments))
  return jax.vmap(one)(g)


class OracleTest(parameterized.TestCase):

  @parameterized.parameters(False, True)
  def test_is_unbiased_and_its_intervals_cover(self, has_weights):
    weights = WEIGHTS if has_weights else np.ones_like(WEIGHTS)
    found, (low, high) = estimated(draw(4000, weights), weights)
    truth = diversity.NestedEstimate(MEAN @ MEAN, BETWEEN, WITHIN)
    for x, least, most, t in zip(found, low, high, truth):
      helpers.assert_mean(x, t)
      coverage = np.mean((least <= t) & (t <= most))
      # The largest cluster, with a quarter of the units, widens that of G.
      self.assertBetween(coverage, .91, .985)

  @pytest.mark.slow
  def test_ignoring_the_clusters_takes_too_little_noise_for_granted(self):
    """The plain estimate of ‖∇F‖² is too large by about S_b C/W − S_b/W."""
    grads = draw(2000, np.ones_like(WEIGHTS)).astype(float)
    mean, n = grads.mean(1), len(CLUSTERS)
    spread = np.sum((grads - mean[:, None])**2, (1, 2)) / (n - 1)
    plain = np.sum(mean**2, -1) - spread / n
    common = np.sum(SIZES**2) / n
    helpers.assert_mean(
      plain, MEAN @ MEAN + BETWEEN * (common - 1) / (n - 1))


class MomentsTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_equal_sums_over_clusters(self):
    g = draw(1, WEIGHTS)[0]
    found = gradiv.nested_moments(g @ g.T, CLUSTERS, weights=WEIGHTS)
    helpers.assert_close(found, naive(g, CLUSTERS, WEIGHTS), 1e-4, 1e-5)

  @pytest.mark.slow
  def test_intervals_leave_out_one_cluster_at_a_time(self):
    g, num = draw(1, WEIGHTS)[0], len(SIZES)
    moments = gradiv.nested_moments(g @ g.T, CLUSTERS, weights=WEIGHTS)
    whole = np.array(gradiv.nested_estimate(moments))
    others = np.array([gradiv.nested_estimate(naive(
      g[CLUSTERS != k], CLUSTERS[CLUSTERS != k], WEIGHTS[CLUSTERS != k]))
      for k in range(num)])
    pseudo = num * whole - (num - 1) * others
    half = 2.3646 * pseudo.std(0, ddof=1) / num**.5  # Student's t, 7 degrees
    low, high = diversity.nested_intervals(moments)
    np.testing.assert_allclose(low, np.maximum(whole - half, 0), 2e-3, 1e-4)
    np.testing.assert_allclose(high, whole + half, 2e-3)

  @pytest.mark.slow
  def test_rows_of_nan_and_weights_of_zero_are_left_out(self):
    g = draw(1, WEIGHTS)[0]
    kept = CLUSTERS != 3
    gram = np.where(np.outer(kept, kept), g @ g.T, np.nan)
    expected = gradiv.nested_estimate(naive(g[kept], CLUSTERS[kept],
                                            WEIGHTS[kept]))
    for found in (
        gradiv.nested_moments(gram, CLUSTERS, weights=WEIGHTS),
        gradiv.nested_moments(g @ g.T, CLUSTERS, weights=WEIGHTS * kept)):
      self.assertEqual(float(found.num_members[3]), 0)
      helpers.assert_close(
        gradiv.nested_estimate(found), expected, 1e-4, 1e-5)

  @pytest.mark.slow
  def test_groups_and_traced_clusters(self):
    g = draw(2, WEIGHTS)
    gram = np.einsum('rid,rjd->rij', g, g)
    both = jax.jit(lambda gram, clusters: gradiv.nested_moments(
      gram, clusters, num_clusters=8, weights=WEIGHTS))(gram, CLUSTERS)
    for k in range(2):
      one = gradiv.nested_moments(gram[k], CLUSTERS, weights=WEIGHTS)
      helpers.assert_close(jax.tree.map(lambda x, k=k: x[k], both), one, 1e-5,
                           1e-5)
      ends = [diversity.nested_intervals(x) for x in (both, one)]
      helpers.assert_close(
        jax.tree.map(lambda x, k=k: x[k], ends[0]), ends[1], 1e-4, 1e-5)

  @pytest.mark.slow
  def test_what_cannot_be_known_is_nan(self):
    gram = jnp.eye(4)
    alone = gradiv.nested_estimate(gradiv.nested_moments(gram, np.arange(4)))
    self.assertTrue(np.all(np.isnan(np.array(alone))))
    one = gradiv.nested_estimate(gradiv.nested_moments(gram, np.zeros(4, int)))
    self.assertTrue(np.isnan(one.between) and np.isnan(one.sq_norm))
    self.assertEqual(float(one.within), 1)

  def test_wrong_arguments_are_refused(self):
    gram, clusters = np.eye(4), np.array([0, 0, 1, 1])
    for regex, args, kwargs in (
        ('gram of shape', (np.ones((3, 4)), clusters), {}),
        ('clusters of shape', (gram, clusters[:3]), {}),
        ('clusters of shape .* float', (gram, clusters * 1.), {}),
        ('clusters=.*from 0 to 0', (gram, clusters), {'num_clusters': 1}),
        ('weights of shape', (gram, clusters), {'weights': np.ones(3)}),
        ('weights=.*at least 0', (gram, clusters), {'weights': -np.ones(4)}),
        ('weights=.*finite', (gram, clusters), {'weights': np.full(4, np.inf)}),
    ):
      with self.subTest(regex):
        with self.assertRaisesRegex(ValueError, regex):
          gradiv.nested_moments(*args, **kwargs)
    with self.assertRaisesRegex(ValueError, 'num_clusters=None'):
      jax.jit(lambda c: gradiv.nested_moments(gram, c))(clusters)


class WorkersTest(parameterized.TestCase):

  @parameterized.parameters('pmap', 'shard_map')
  @pytest.mark.slow
  def test_equal_those_of_the_inner_products(self, backend):
    """Eight clusters of two workers, with batches of their own."""
    grads, sizes = draw(1, WEIGHTS)[0][:16], WEIGHTS[:16]
    clusters, axes = np.repeat(np.arange(8), 2), ('devices', 'virtual')
    fn = lambda p, _: gradiv.worker_nested_moments(
      {'a': p[0][:5], 'b': p[0][5:]}, *axes, batch_size=p[1])
    found = helpers.on_workers(
      fn, (grads, sizes), axis_name=axes, backend=backend)
    helpers.assert_close(found, naive(grads, clusters, sizes), 1e-4, 1e-5)

  @pytest.mark.slow
  def test_of_gradients_that_are_not_finite_are_unknown(self):
    grads = np.ones((4, 2, 3), 'f')
    grads[3, 1, 0] = np.inf
    fn = lambda g: gradiv.worker_nested_moments(g, 'hosts', 'devices')
    for axis in ('devices', 'hosts'):
      fn = jax.vmap(fn, axis_name=axis, out_axes=None)
    found = np.array(gradiv.nested_estimate(fn(grads)))
    self.assertFalse(np.any(np.isfinite(found)))


class PlanTest(absltest.TestCase):

  def test_best_number_of_members(self):
    cost, e = 5., diversity.NestedEstimate(1., .3, 7.)
    members = np.linspace(1, 60, 59001)
    variance = np.array(e.of_clusters(members).variance) * (cost + members)
    np.testing.assert_allclose(
      e.best_num_members(cost), members[np.argmin(variance)], .01)
    self.assertEqual(float(e._replace(between=-1.).best_num_members(cost)),
                     np.inf)
    self.assertEqual(float(e._replace(within=-1.).best_num_members(cost)), 1)
    for bad in (0, -1.):
      with self.assertRaisesRegex(ValueError, 'cost'):
        e.best_num_members(bad)


if __name__ == '__main__':
  absltest.main()
