"""What the conflict rules promise, and that nothing makes them stumble."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import minmax, projection, quadratic, spectral
from tests.gradiv.weightings import conflict_references as ref

# Of `DefinitionTest` too, so that no program is compiled for this alone.
SIZES = (2, 5)
KINDS = tuple(ref.inputs(2))
EACH = tuple((n, kind) for n in SIZES for kind in KINDS)
# Kinds of which no nonnegative sum is near zero.
SOLVABLE = ('random', 'aligned', 'near duplicates', 'scaled')
SOLVED = tuple((n, kind) for n in SIZES for kind in SOLVABLE)


def update(name, rows):
  return ref.weigh(name, rows @ rows.T).astype(float) @ rows


def gains(rows, d):
  """⟨g_i, d⟩, in units of ‖g_i‖‖d‖."""
  lengths = np.linalg.norm(rows, axis=1) * max(np.linalg.norm(d), 1e-30)
  return rows @ d / lengths


class PropertyTest(parameterized.TestCase):

  @parameterized.parameters(*EACH)
  def test_projections_conflict_with_none(self, n, kind):
    rows = ref.inputs(n)[kind]
    for name in ('upgrad', 'dual_proj'):
      weights = ref.weigh(name, rows @ rows.T).astype(float)
      # The bound of the docstring, and rounding.
      slack = 1e-4 * weights * np.sum(rows**2)
      rounding = 1e-5 * (np.abs(rows @ rows.T) @ weights)
      self.assertTrue((rows @ (weights @ rows) >= -slack - rounding).all())

  @parameterized.parameters(*EACH)
  def test_mgda_gives_each_at_least_the_square_of_its_length(self, n, kind):
    rows = ref.inputs(n)[kind]
    weights = ref.weigh('mgda', rows @ rows.T).astype(float)
    d = weights @ rows
    rounding = 1e-4 * np.abs(rows @ rows.T) @ weights
    self.assertTrue((rows @ d >= d @ d - rounding).all())
    used = weights > 1e-3
    np.testing.assert_array_less(
      (rows @ d - d @ d)[used] - rounding[used], 0)

  @parameterized.parameters(*EACH)
  def test_cagrad_loses_for_none_from_one_on(self, n, kind):
    rows = ref.inputs(n)[kind]
    d = update('cagrad 1.5', rows)
    self.assertGreater(gains(rows, d).min(), -2e-3)
    mean = jax.jit(minmax.cagrad(0.).__call__)(np.float32(rows @ rows.T))
    np.testing.assert_allclose(mean, np.full(n, 1 / n), 1e-5)

  @parameterized.parameters(*SOLVED)
  def test_cagrad_helps_the_worst_more_than_the_mean_does(self, n, kind):
    rows = ref.inputs(n)[kind]
    worst = lambda d: (rows @ d).min()
    best, mean = worst(update('cagrad', rows)), worst(rows.mean(0))
    self.assertGreaterEqual(best, mean - 1e-5 * abs(mean))

  @parameterized.parameters(*SOLVED)
  def test_nash_does_not_care_for_lengths(self, n, kind):
    rows = ref.inputs(n)[kind]
    scales = np.geomspace(0.01, 100, n)[:, None]
    d, other = (update('nash_mtl free', x) for x in (rows, scales * rows))
    np.testing.assert_allclose(d, other, 0, 2e-4 * np.abs(d).max())
    self.assertAlmostEqual(np.linalg.norm(d), np.sqrt(n), 4)
    self.assertAlmostEqual(np.linalg.norm(update('nash_mtl', rows)), 1, 4)

  @parameterized.parameters(*SOLVED)
  def test_equal_projections(self, n, kind):
    rows = ref.inputs(n)[kind]
    weights = ref.weigh('imtl_g', rows @ rows.T)
    self.assertAlmostEqual(float(weights.sum()), 1, 4)
    for name in ('imtl_g', 'config'):
      d = update(name, rows)
      cosines = gains(rows, d)
      np.testing.assert_allclose(cosines, cosines[0], 2e-3)
    # ConFIG's length: the sum of the projections on its direction.
    self.assertAlmostEqual(
      np.linalg.norm(d) / (rows @ d / np.linalg.norm(d)).sum(), 1, 3)

  @parameterized.parameters(*SOLVED)
  def test_aligned_gradients_are_orthogonal(self, n, kind):
    """A tasks' own aligned gradient is a row of √s VUᵀ; d is their mean."""
    rows = ref.inputs(n)[kind]
    sigma = np.linalg.svd(rows, compute_uv=False)
    d = update('aligned_mtl', rows)
    # Orthogonal, each as long as the least singular value.
    expected = sigma[-1] / np.sqrt(n)
    self.assertAlmostEqual(np.linalg.norm(d) / expected, 1, 3)

  @parameterized.parameters(*EACH)
  def test_without_conflict_pcgrad_adds_up(self, n, kind):
    rows = np.abs(ref.inputs(n)[kind])
    for name in ref.RANDOM:
      np.testing.assert_array_equal(
        ref.weigh(name, rows @ rows.T), np.ones(n))

  @parameterized.parameters(*SOLVABLE)
  def test_two_that_conflict_do_so_no_longer(self, kind):
    rows = ref.inputs(2)[kind]
    rows[1] -= 1.2 * (rows[1] @ rows[0]) / (rows[0] @ rows[0]) * rows[0]
    self.assertGreater(gains(rows, update('pcgrad', rows)).min(), -1e-5)

  def test_the_vaccine_starts_as_pcgrad_and_aims_higher_later(self):
    rows = ref.inputs(5)['conflicting']
    first, state = ref.step('gradvac', rows @ rows.T)
    np.testing.assert_allclose(
      first, ref.weigh('pcgrad', rows @ rows.T), 1e-4)
    aligned = ref.inputs(5)['aligned']
    for _ in range(8):
      _, state = ref.step('gradvac', aligned @ aligned.T, state=state)
    later, _ = ref.step('gradvac', rows @ rows.T, state=state)
    mean_gain = lambda w: gains(rows, w @ rows).mean()
    self.assertGreater(mean_gain(later), mean_gain(first))

  @parameterized.parameters(
    *[(name, kind) for name in ref.RULES if name not in ref.RANDOM
      for kind in SOLVABLE])
  def test_permutation_and_scale(self, name, kind):
    rows = ref.inputs(5)[kind]
    order = np.random.default_rng(1).permutation(5)
    d = update(name, rows)
    close = lambda other: np.testing.assert_allclose(
      other, d, 0, 1e-3 * np.abs(d).max())
    close(update(name, rows[order]))
    # Nash-MTL alone knows no scale; with a limit it may.
    for scale in (1e-12, 1e9):
      scaled = update(name, scale * rows)
      close(scaled if name.startswith('nash') else scaled / scale)


class MechanicsTest(parameterized.TestCase):

  @parameterized.parameters(*ref.RULES)
  def test_absent_gradients_do_not_count(self, name):
    rows = ref.inputs(5)['random']
    present = np.array([1, 0, 0, 0, 1], bool)
    weights = ref.step(name, rows @ rows.T, present)[0]
    self.assertEqual(weights[~present].tolist(), [0, 0, 0])
    if name in ref.RANDOM:  # fewer draw another order: only that it is sound
      self.assertTrue(np.isfinite(weights).all())
      return
    expected = ref.weigh(name, rows[present] @ rows[present].T)
    np.testing.assert_allclose(weights[present], expected, 1e-3, 1e-5)

  @parameterized.parameters(*ref.RULES)
  def test_never_nan(self, name):
    rows = ref.inputs(5)['random']
    everyone = np.ones(5, bool)
    hard = {
      'zero': 0 * rows, 'one zero': rows * (np.arange(5) != 2)[:, None],
      'opposite': np.concatenate([rows[:2], -rows[:2], rows[:1]]),
      'equal': np.repeat(rows[:1], 5, 0), 'tiny': 1e-15 * rows,
      'huge': 1e15 * rows, 'one huge': rows * np.array([[1e12, 1, 1, 1, 1]]).T}
    for kind, x in hard.items():
      for present in (everyone, ~everyone, np.arange(5) == 3):
        weights = ref.step(name, x @ x.T, present)[0]
        self.assertTrue(np.isfinite(weights).all(), (kind, weights))

  @parameterized.parameters(*ref.RULES)
  def test_transformations(self, name):
    rule = ref.RULES[name]
    grams = np.float32([x @ x.T for x in (
      ref.inputs(5)[kind] for kind in SOLVABLE)])
    weigh = lambda gram: rule(gram, key=ref.KEY)
    expected = np.stack([ref.weigh(name, g) for g in grams])
    close = lambda actual: np.testing.assert_allclose(
      actual, expected, 1e-3, 1e-3 * np.abs(expected).max())
    # Two a device: under vmap, inside of shard_map.
    close(jax.jit(jax.shard_map(
      jax.vmap(weigh), in_specs=jax.P('x'), out_specs=jax.P('x'),
      mesh=jax.sharding.Mesh(jax.devices()[:2], 'x')))(grams))


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: projection.pcgrad(reduction='max'), "reduction='max'"),
    (lambda: projection.gradvac(decay=1.5), 'decay=1.5'),
    (lambda: projection.upgrad(ridge=0.), 'ridge=0.0.*positive'),
    (lambda: projection.dual_proj(ridge=float('inf')), 'ridge=inf'),
    (lambda: minmax.cagrad(-1.), 'c=-1.0'),
    (lambda: minmax.nash_mtl(0.), 'max_norm=0.0'),
    (lambda: spectral.aligned_mtl('max'), "scale_mode='max'.*rmse"),
    (lambda: projection.pcgrad()(jnp.eye(2)), 'key=None'),
    (lambda: minmax.mgda()(jnp.ones((2, 3))), r'shape \(2, 3\)'))
  def test_bad_arguments(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()

  def test_cosines_of_a_zero_gradient(self):
    norms, cos, alive = quadratic.cosines(jnp.zeros((2, 2)))
    self.assertEqual(alive.tolist(), [False, False])
    np.testing.assert_array_equal(cos, np.eye(2))
    np.testing.assert_array_equal(norms, [1, 1])


if __name__ == '__main__':
  absltest.main()
