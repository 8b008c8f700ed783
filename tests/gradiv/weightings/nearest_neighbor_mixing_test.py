"""Nearest-neighbor mixing, against its definition on the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from gradiv.weightings import nearest_neighbor_mixing
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.centered_clipping_test import clip_around


def mix(x, f):
  """Replace each row by the mean of the n − f nearest."""
  closest = np.argsort(
    inputs.distances(x) - np.eye(len(x)), 1, kind='stable')
  return x[closest[:, :len(x) - f]].mean(1)


class NearestNeighborMixingTest(parameterized.TestCase):

  @parameterized.product(n=inputs.SIZES, f=(0, 2))
  def test_definition(self, n, f):
    f = min(f, n - 1)
    for kind in inputs.KINDS:
      with self.subTest(kind):
        x = inputs.hard(kind, n)
        gram = inputs.gram_of(x, centered=kind == 'duplicates')
        w = rules.compiled(nearest_neighbor_mixing, f)(gram)
        np.testing.assert_allclose(
          np.float64(w) @ x, mix(x, f).mean(0), 1e-4,
          1e-6 * np.abs(x).max())

  def test_the_next_rule_sees_the_mixed_gradients(self, f=2):
    x = inputs.hard('offset', 8)
    rule = nearest_neighbor_mixing(f, weightings.norm_clipping(2.))
    y = mix(x, f)
    norms = np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(
      jax.jit(rule.__call__)(inputs.gram_of(x)) @ x,
      (y * np.minimum(1, 2 / norms)).mean(0), 1e-4, 1e-5)

  @parameterized.parameters(
    (2, 6, 0, 1e5), (3, 6, 1, 10), (3, 6, 1, 1e3), (5, 128, 1, 1e5))
  def test_far_attackers_do_not_move_the_median(self, f, dim, seed, far):
    # The mixed gradients of honest workers are equal, and must not seem to
    # differ by the rounding of inner products with those of attackers.
    rng, n = np.random.default_rng(seed), 16
    x = rng.normal(size=(n, dim)) + rng.normal(size=dim)
    x[:f] = far * rng.normal(size=(f, dim)) if seed else far
    rule = nearest_neighbor_mixing(f, weightings.geometric_median())
    tx = gradiv.aggregate_by_weights(rule, 'workers')
    update = jax.jit(jax.vmap(
      lambda g: tx.update(g, tx.init(g))[0], axis_name='workers',
      out_axes=None))(jnp.float32(x))
    y = mix(np.float64(np.float32(x)), f)
    total = lambda z: np.linalg.norm(y - z, axis=1).sum()
    # The majority coincides, so it is the median.
    self.assertLess(total(np.float64(update)), (1 + 2e-6) * total(y[-1]))

  def test_extra_rows_are_not_mixed(self):
    x = inputs.hard('offset', 6)
    w = rules.weigh('mixed_clipping', inputs.gram_of(x))
    expected = clip_around(mix(x[:-1], 1), x[-1], .5, 1)
    np.testing.assert_allclose(w @ x, expected, 1e-4, 1e-5)

  def test_too_few_present_give_zeros(self):
    gram = inputs.gram_of(inputs.hard('random', 5))
    for given in range(6):
      w = rules.weigh('mixing', gram, np.arange(5) < given)
      self.assertAlmostEqual(float(w.sum()), given >= 2, 5)

  def test_flags_are_those_of_the_next_rule(self):
    for then in (weightings.gradvac(), weightings.centered_clipping(1.),
                 weightings.krum(1)):
      rule = nearest_neighbor_mixing(1, then)
      for flag in ('of_differences', 'num_extra', 'needs_key', 'needs_size'):
        self.assertEqual(getattr(rule, flag), getattr(then, flag))

  @parameterized.parameters(
    lambda: nearest_neighbor_mixing(-2),
    lambda: nearest_neighbor_mixing(4)(jnp.eye(4)))
  def test_bad_arguments_are_named(self, call):
    with self.assertRaisesRegex(ValueError, 'num_byzantine'):
      call()


if __name__ == '__main__':
  absltest.main()
