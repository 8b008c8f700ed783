"""What every rule keeps, and what most of them do."""

import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from gradiv.weightings import _numbers
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.rules import RANDOM, RULES

# Weights that tie, or that jump at a threshold, survive rounding on these.
TOLERANCE = dict(rtol=1e-3, atol=1e-5)
# One rule for each loop and each decomposition; all rules pass through the
# contract of aggregations.
LOOPS = ('geometric_median', 'mixed_clipping', 'agreement', 'gradvac', 'upgrad',
         'cagrad', 'nash_mtl', 'aligned_mtl')
# Rules whose weights depend on the order of the gradients.
ORDERED = (*RANDOM, 'agreement', 'adasum', 'pcd')
# Rules with a length of their own: the radius, or the length of the update.
SCALED = ('norm_clipping', 'centered_clipping', 'mixed_clipping', 'adacons',
          'nash_mtl', 'free nash_mtl', 'fairgrad', 'modo', 'pcd')
INVARIANT = tuple(name for name in RULES if name not in SCALED)


def rows_for(name, n, kind='offset'):
  """Gradients and the extra rows."""
  size = n + RULES[name].num_extra
  if name in rules.LOSSES:
    return inputs.losses('aligned' if kind == 'offset' else kind, size)
  return inputs.hard(kind, size)


class EveryRuleTest(parameterized.TestCase):

  @parameterized.parameters(*RULES)
  @pytest.mark.slow
  def test_absent_gradients_do_not_count(self, name):
    rows = rows_for(name, 16)
    # A draw depends on the index of a gradient.
    kept = np.arange(5) if name in RANDOM else np.array([1, 4, 7, 8, 14])
    present = np.isin(np.arange(16), kept)
    rows[:16][~present] = np.nan
    got = rules.weigh(name, rows @ rows.T, present)
    kept = np.append(kept, np.arange(16, len(rows)))
    expected = rules.weigh(name, rows[kept] @ rows[kept].T)
    np.testing.assert_allclose(got[kept], expected, **TOLERANCE)
    self.assertFalse(got[:16][~present].any())

  @parameterized.parameters(*RULES)
  def test_weights_are_always_finite(self, name):
    rows = rows_for(name, 5, 'random')
    places = np.arange(len(rows))[:, None]
    hard = {
      'zero': 0 * rows, 'one zero': rows * (places != 2),
      'opposite': np.where(places % 2, 1, -1) * rows[:1],
      'equal': rows[:1] + 0 * rows, 'line': places * rows[:1],
      'tiny': 1e-15 * rows, 'huge': 1e15 * rows,
      'one huge': rows * np.where(places == 0, 1e12, 1)}
    everyone = np.ones(5, bool)
    for kind, x in hard.items():
      for present in (everyone, ~everyone, np.arange(5) == 3,
                      np.arange(5) < 2):
        with self.subTest(f'{kind} {present}'):
          weights = rules.weigh(name, x @ x.T, present)
          self.assertTrue(np.isfinite(weights).all())

  @parameterized.parameters(*LOOPS)
  @pytest.mark.slow
  def test_runs_inside_vmap_scan_and_shard_map(self, name):
    rule = RULES[name]
    grams = np.stack([inputs.gram_of(scale * rows_for(name, 5, kind))
                      for kind in ('offset', 'random') for scale in (1, 2)])
    expected = np.stack([rules.weigh(name, g) for g in grams])
    weigh = lambda gram: rule(gram, key=rules.KEY)

    def all_of(grams):  # [2, 5, 5] on each device, in two iterations
      return jax.lax.scan(
        lambda _, g: (None, jax.vmap(weigh)(g[None])[0]), None, grams)[1]

    mapped = jax.jit(jax.shard_map(
      all_of, in_specs=jax.P('x'), out_specs=jax.P('x'),
      mesh=jax.sharding.Mesh(jax.devices()[:2], 'x')))
    np.testing.assert_allclose(
      mapped(grams), expected, 1e-3, 1e-3 * np.abs(expected).max())

  @parameterized.parameters(*RULES)
  def test_the_state_keeps_its_structure_without_empty_arrays(self, name):
    before = RULES[name].init(5)
    rows = rows_for(name, 5)
    after = rules.step(name, rows @ rows.T)[1]
    kinds = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype), s)
    self.assertEqual(kinds(after), kinds(before))
    for leaf in jax.tree.leaves(before):
      self.assertGreater(leaf.size, 0)  # orbax cannot save an empty array


class MostRulesTest(parameterized.TestCase):

  @parameterized.parameters(*[r for r in RULES if r not in ORDERED])
  def test_the_order_does_not_matter(self, name):
    rows = rows_for(name, 5)
    order = np.append(np.random.default_rng(1).permutation(5),
                      np.arange(5, len(rows)))
    weights = rules.weigh(name, rows @ rows.T)
    shuffled = rows[order]
    np.testing.assert_allclose(
      rules.weigh(name, shuffled @ shuffled.T), weights[order], 1e-3,
      1e-3 * np.abs(weights).max())

  @parameterized.parameters(*INVARIANT)
  def test_the_scale_does_not_matter(self, name):
    for kind in ('random', 'offset'):
      rows = rows_for(name, 5, kind)
      weights = rules.weigh(name, rows @ rows.T)
      for scale in (1e-15, 1e6, 1e15):
        scaled = scale * rows
        np.testing.assert_allclose(
          rules.weigh(name, scaled @ scaled.T), weights, 1e-3,
          1e-3 * np.abs(weights).max())

  @parameterized.parameters('adacons', 'free nash_mtl', 'nash_mtl')
  def test_the_update_does_not_scale(self, name):
    rows = rows_for(name, 5)
    for scale in (1e-12, 1e9):
      np.testing.assert_allclose(
        rules.update(name, scale * rows), rules.update(name, rows), 0,
        1e-3 * np.abs(rules.update(name, rows)).max())

  @parameterized.parameters(
    *[name for name, rule in RULES.items() if rule.of_differences])
  def test_a_common_shift_does_not_matter(self, name):
    x = rows_for(name, 5)
    weights = rules.weigh(name, x @ x.T)
    self.assertAlmostEqual(float(weights.sum()), 1, 5)
    x = x - 2
    np.testing.assert_allclose(
      rules.weigh(name, x @ x.T), weights, 0, 2e-3)

  @parameterized.parameters(
    *[name for name, rule in RULES.items() if rule.equal_pair])
  def test_two_get_equal_weights(self, name):
    for kind in inputs.KINDS:
      for x in inputs.several(kind, 2, 8):
        first, second = rules.weigh(name, x @ x.T)
        self.assertEqual(first, second)


# Every factory with a number that a user may schedule.
NUMBERS = (
  weightings.norm_clipping, weightings.centered_clipping,
  lambda x: weightings.krum(1, power=x),
  lambda x: weightings.geometric_median(smoothing=x),
  weightings.max_neighbors, weightings.agreement, weightings.adacons,
  lambda x: weightings.gradvac(decay=x),
  lambda x: weightings.upgrad(ridge=x),
  lambda x: weightings.dual_proj(ridge=x),
  weightings.cagrad, weightings.nash_mtl,
)


class ArrayArgumentsTest(parameterized.TestCase):

  @parameterized.product(make=NUMBERS, dtype=('float32', 'bfloat16'))
  def test_numbers_may_be_traced(self, make, dtype):
    weights = jax.eval_shape(
      lambda x, gram: make(x)(gram, key=rules.KEY),
      jax.ShapeDtypeStruct((), dtype), np.ones((5, 5), np.float32))
    self.assertEqual(weights.dtype, np.float32)

  @parameterized.parameters(
    ('cagrad', weightings.cagrad, .5), ('wide cagrad', weightings.cagrad, 1.5),
    ('norm_clipping', weightings.norm_clipping, 2.5))
  def test_a_traced_number_counts_for_its_value(self, name, make, value):
    weigh = jax.jit(lambda x, gram: make(x)(gram))
    for x in (inputs.losses('random', 5),
              np.array([[1., 0], [-1, 0], [0, 1], [0, 0], [0, 0]])):
      np.testing.assert_allclose(
        weigh(value, inputs.gram_of(x)), rules.weigh(name, x @ x.T),
        1e-5, 1e-6)

  def test_num_stddevs_may_be_traced(self):
    def weigh(num_stddevs, gram):
      rule = weightings.agreement(
        2., window=4, num_stddevs=num_stddevs)
      state = rule.init(2)._replace(
        distances=jax.numpy.array([.1, .2, .3, .2]))
      return rule.step(gram, gram[0] > 0, state, None)[0]

    gram = np.float32([[1, .7], [.7, 1]])
    for num_stddevs, agree in ((.5, False), (2., True)):
      self.assertEqual(
        bool(jax.jit(weigh)(num_stddevs, gram).any()), agree)

  def test_numbers_may_be_scheduled_by_inject_hyperparams(self):
    def clipped(max_norm):
      return gradiv.aggregate_by_weights(
        weightings.norm_clipping(max_norm), 'workers')

    tx = optax.inject_hyperparams(clipped)(lambda count: 1. + count)

    def steps(g):
      return jax.lax.scan(
        lambda s, _: tx.update(g, s)[::-1], tx.init(g), None, length=3)[1]

    updates = jax.jit(jax.vmap(steps, axis_name='workers', out_axes=1))(
      np.float32([[4.], [.5]]))
    np.testing.assert_allclose(
      updates[:, 0, 0], (np.array([1., 2, 3]) + .5) / 2, 1e-6)

  @parameterized.parameters(
    (lambda x: weightings.norm_clipping(x), -1., 'max_norm'),
    (lambda x: weightings.cagrad(x), -1., '^c='),
    (lambda x: weightings.agreement(x), 2.5, 'max_cosine_distance'),
    (lambda x: weightings.adacons(x), 1., 'decay'))
  def test_known_arrays_are_checked(self, make, value, argument):
    with self.assertRaisesRegex(ValueError, argument):
      make(np.float32(value))

  def test_numbers_stay_numbers_and_arrays_become_float32(self):
    self.assertIsInstance(_numbers.as_float(2), float)
    self.assertIsInstance(_numbers.as_float(np.float64(2)), float)
    for dtype in ('bfloat16', 'int32'):
      value = jax.numpy.ones((), dtype)
      self.assertEqual(_numbers.as_float(value).dtype, np.float32)


if __name__ == '__main__':
  absltest.main()
