"""Robust rules, against their definitions on the gradients themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import core, robust

SIZES = (1, 2, 3, 5, 8, 16)
KINDS = ('random', 'offset', 'duplicates', 'outliers', 'zeros', 'line')


def hard_input(kind, n, dim=6):
  """Gradients [n, dim], float64."""
  rng = np.random.default_rng(n)
  x = rng.normal(size=(n, dim))
  if kind == 'offset':
    x += 3
  elif kind == 'duplicates':
    x = 1 + 1e-4 * x
  elif kind == 'outliers':
    x[:(n - 1) // 2] *= 1e6
  elif kind == 'zeros':
    x[::2] = 0
  elif kind == 'line':
    x = x[:, :1] * rng.normal(size=dim)
  return x


def gram_of(x, centred=False):
  """In float64, rounded once."""
  x = x - x.mean(0) if centred else x
  return (x @ x.T).astype(np.float32)


@functools.lru_cache
def compiled(make, *args):
  return jax.jit(make(*args).__call__)


def distances(x):
  return np.linalg.norm(x[:, None] - x[None], axis=-1)


def krum_scores(x, k, power):
  return (np.sort(distances(x), 1)[:, 1:k + 1] ** power).sum(1)


def mix(x, f):
  """Each row the mean of the n − f nearest."""
  closest = np.argsort(distances(x) - np.eye(len(x)), 1, kind='stable')
  return x[closest[:, :len(x) - f]].mean(1)


def clip_around(x, v, radius, num_steps):
  for _ in range(num_steps):
    d = np.linalg.norm(x - v, axis=1)[:, None]
    v = v + ((x - v) * np.minimum(1, radius / np.maximum(d, 1e-99))).mean(0)
  return v


def half_radius(x):
  return np.sort(distances(x), 1)[:, len(x) // 2].min()


def weiszfeld(x, smoothing, num_steps=3000):
  z, floor = np.median(x, 0), max(smoothing * half_radius(x), 1e-19)
  for _ in range(num_steps):
    pull = 1 / np.maximum(floor, np.linalg.norm(x - z, axis=1))
    z = pull @ x / pull.sum()
  return z


def cases(least=1):
  return [dict(kind=kind, n=n) for kind in KINDS for n in SIZES if n >= least]


def krum_with(f, m, k, power):
  return robust.krum(f, m, num_neighbours=k, power=power)


class DefinitionTest(parameterized.TestCase):

  @parameterized.product(cases(least=3), setting=((0, 1, 2), (2, 3, 1)))
  def test_krum(self, kind, n, setting):
    f, m, power = setting
    f = min(f, n - 3)
    x = hard_input(kind, n)
    gram = gram_of(x, centred=kind == 'duplicates')
    w = np.asarray(compiled(krum_with, f, m, None, power)(gram))
    self.assertEqual(sorted(w)[-m:], [np.float32(1 / m)] * m)
    scores = krum_scores(x, n - f - 2, power)
    best = np.argsort(scores, kind='stable')
    np.testing.assert_allclose(  # Ties may go either way after rounding.
      scores[w > 0].sum(), scores[best[:m]].sum(), 1e-3, 1e-9)
    if m == n or scores[best[m]] > 1.01 * scores[best[m - 1]]:
      self.assertCountEqual(np.flatnonzero(w), best[:m])

  @parameterized.product(cases())
  def test_geometric_median(self, kind, n):
    x = hard_input(kind, n)
    w = compiled(robust.geometric_median)(
      gram_of(x, centred=kind == 'duplicates'))
    z, expected = np.float64(w) @ x, weiszfeld(x, 1e-3)
    self.assertAlmostEqual(float(w.sum()), 1, 5)
    self.assertGreaterEqual(w.min(), 0)
    np.testing.assert_allclose(
      np.linalg.norm(x - z, axis=1).sum(),
      np.linalg.norm(x - expected, axis=1).sum(), 1e-4, 1e-6 * n)
    if n > 2 and kind != 'line':  # Elsewhere the minimum is not unique.
      self.assertLess(
        np.linalg.norm(z - expected), .02 * half_radius(x) + 1e-6)

  @parameterized.product(cases(), f=(0, 2))
  def test_nearest_neighbour_mixing(self, kind, n, f):
    f = min(f, n - 1)
    x = hard_input(kind, n)
    gram = gram_of(x, centred=kind == 'duplicates')
    w = compiled(robust.nearest_neighbour_mixing, f)(gram)
    expected = mix(x, f).mean(0)
    np.testing.assert_allclose(
      np.float64(w) @ x, expected, 1e-4, 1e-6 * np.abs(x).max())

  @parameterized.product(cases(least=2))
  def test_centered_clipping(self, kind, n):
    x = hard_input(kind, n)
    w = compiled(robust.centered_clipping, .5, 4)(gram_of(x))
    expected = clip_around(x[:-1], x[-1], .5, 4)
    self.assertAlmostEqual(float(w.sum()), 1, 5)
    np.testing.assert_allclose(
      np.float64(w) @ x, expected, 1e-4, 1e-5 * np.median(np.abs(x)) + 1e-5)

  def test_mixing_before_another_rule(self, f=2):
    x = hard_input('offset', 8)
    w = robust.nearest_neighbour_mixing(f, core.norm_clipping(2.))(gram_of(x))
    y = mix(x, f)
    norms = np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(
      w @ x, (y * np.minimum(1, 2 / norms)).mean(0), 1e-4, 1e-5)
    w = robust.nearest_neighbour_mixing(
      f, robust.centered_clipping(.5))(gram_of(x))
    expected = clip_around(mix(x[:-1], f), x[-1], .5, 1)
    np.testing.assert_allclose(w @ x, expected, 1e-4, 1e-5)

  def test_value_that_torchjd_publishes(self):
    x = np.array([[1., 1, 1], [1, 0, 1], [75, -666, 23], [1, 2, 3], [2, 0, 1]])
    w = robust.krum(1, 4, power=1)(gram_of(x))
    self.assertEqual(w.tolist(), [.25, .25, 0, .25, .25])
    np.testing.assert_allclose(w @ x, [1.25, .75, 1.5])

  def test_power_and_neighbours_change_the_choice(self):
    x = np.array([[3.], [8], [5], [-7], [-9], [7]])
    choices = set()
    for k, power in ((1, 2), (4, 1), (4, 6)):
      chosen = int(krum_with(0, 1, k, power)(gram_of(x)).argmax())
      self.assertEqual(chosen, krum_scores(x, k, power).argmin())
      choices.add(chosen)
    self.assertLen(choices, 3)

  def test_ties_go_to_the_lowest_index(self):
    x = np.array([[9.], [1.], [0.], [5.]])  # 1 and 2 are mutually nearest.
    self.assertEqual(robust.krum(1)(gram_of(x)).tolist(), [0, 1, 0, 0])
    same = np.ones((4, 4), np.float32)
    self.assertEqual(robust.krum(1, 2)(same).tolist(), [.5, .5, 0, 0])


RULES = dict(
  krum=robust.krum(1),
  multi=robust.krum(1, 2, power=1),
  median=robust.geometric_median(),
  mixing=robust.nearest_neighbour_mixing(1),
  mixed_median=robust.nearest_neighbour_mixing(1, robust.geometric_median()),
)
EVERY = RULES | dict(
  clipping=robust.centered_clipping(1., 2),
  mixed_clipping=robust.nearest_neighbour_mixing(
    1, robust.centered_clipping(1.)))
WEIGH = {name: jax.jit(rule.__call__) for name, rule in EVERY.items()}


class PropertyTest(parameterized.TestCase):

  @parameterized.parameters(*RULES)
  def test_invariances(self, name):
    weigh, x = WEIGH[name], hard_input('offset', 7)
    self.assertTrue(RULES[name].of_differences)
    w = weigh(gram_of(x))
    self.assertAlmostEqual(float(w.sum()), 1, 5)
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(weigh(gram_of(x[order])), w[order], 0, 1e-3)
    np.testing.assert_allclose(weigh(gram_of(x - 2)), w, 0, 2e-3)
    for scale in (1e-15, 1e6, 1e15):
      np.testing.assert_allclose(weigh(gram_of(scale * x)), w, 0, 1e-3)

  def test_clipping_scales_with_its_radius(self):
    x = hard_input('offset', 7)
    w = robust.centered_clipping(2., 3)(gram_of(x))
    for s in (1e-15, 1e15):
      got = robust.centered_clipping(2. * s, 3)(gram_of(s * x))
      np.testing.assert_allclose(got, w, 1e-4)

  @parameterized.product(name=('krum', 'median'), n=(5, 9, 15),
                         size=(1e2, 1e4, 1e8, 1e12), apart=(True, False))
  def test_breakdown(self, name, n, size, apart):
    f = (n - 3) // 2
    x = hard_input('offset', n)
    far = np.random.default_rng(1).normal(size=x.shape)
    x[:f] = size * (far if apart else far[:1])[:f]
    rule = compiled(robust.krum, f) if name == 'krum' else WEIGH['median']
    w = rule(gram_of(x))
    honest = x[f:] - x[f:].mean(0)
    shift = np.linalg.norm(np.float64(w) @ x - x[f:].mean(0))
    bound = 2 * (n - f) / (n - 2 * f) * np.linalg.norm(honest, axis=1).max()
    self.assertLess(shift, bound)
    self.assertGreater(np.linalg.norm(x.mean(0) - x[f:].mean(0)), bound)

  @parameterized.parameters(3, 8, 16)
  def test_geometric_median_is_stationary(self, n):
    x = hard_input('offset', n, dim=40)
    away = x - np.float64(robust.geometric_median()(gram_of(x))) @ x
    pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0)
    self.assertLess(np.linalg.norm(pull), 1e-3)

  def test_majority_that_coincides_is_the_median(self):
    x = np.array([[1., 2], [1, 2], [1, 2], [50, 3], [-9, 0]])
    w = WEIGH['median'](gram_of(x - x[0]))
    np.testing.assert_allclose(w @ x, x[0], 1e-5)


class MechanicsTest(parameterized.TestCase):

  @parameterized.parameters(*EVERY)
  def test_absent_gradients_do_not_count(self, name):
    rule, x = EVERY[name], hard_input('offset', 9)
    present = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1], bool)
    x[~present] = np.nan
    seen, kept = gram_of(x), np.flatnonzero(present)
    expected = WEIGH[name](gram_of(x[kept]))
    got = WEIGH[name](seen, present=present[:9 - rule.num_extra])
    np.testing.assert_allclose(got[kept], expected, 1e-4, 1e-5)
    self.assertEqual(got[~present].tolist(), [0, 0])

  @parameterized.parameters(*EVERY)
  def test_never_nan(self, name):
    weigh, x = WEIGH[name], hard_input('offset', 7)
    n = 7 - EVERY[name].num_extra
    everyone = np.ones(n, bool)
    for scale in (0, 1e-15, 1e-3, 1, 1e15):
      for present in (everyone, ~everyone, *np.eye(n, dtype=bool)[:2]):
        w = weigh(gram_of(scale * x), present=present)
        self.assertLess(np.abs(w).sum(), 1 + 1e-5)  # Not so where NaN.
    w = weigh(np.zeros((7, 7), np.float32))
    self.assertAlmostEqual(float(w.sum()), 1, 5)

  def test_too_few_present_give_zeros(self):
    gram = gram_of(hard_input('random', 5))
    for rule, least in ((robust.krum(1), 4), (robust.krum(0, 3), 3),
                        (robust.krum(0, num_neighbours=3), 4),
                        (robust.nearest_neighbour_mixing(2), 3)):
      weigh = jax.jit(rule.__call__)
      for given in range(6):
        w = weigh(gram, present=np.arange(5) < given)
        self.assertAlmostEqual(float(w.sum()), given >= least, 5)

  @parameterized.parameters(*EVERY)
  def test_transformations(self, name):
    rule = EVERY[name]
    grams = np.stack([gram_of(hard_input(k, 6)) for k in KINDS])
    expected = np.stack([WEIGH[name](g) for g in grams])
    np.testing.assert_allclose(jax.vmap(rule)(grams), expected, 1e-4, 1e-5)
    _, got = jax.lax.scan(lambda _, g: (None, rule(g)), None, grams)
    np.testing.assert_allclose(got, expected, 1e-4, 1e-5)
    mapped = jax.jit(jax.shard_map(
      lambda g: rule(g[0])[None], in_specs=jax.P('x'), out_specs=jax.P('x'),
      mesh=jax.sharding.Mesh(jax.devices()[:6], 'x')))
    np.testing.assert_allclose(mapped(grams), expected, 1e-4, 1e-5)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: robust.krum(-1), 'num_byzantine=-1.*at least 0'),
    (lambda: robust.krum(1.5), 'num_byzantine=1.5.*whole'),
    (lambda: robust.krum(1, 0), 'num_selected=0.*at least 1'),
    (lambda: robust.krum(1, num_neighbours=0), 'num_neighbours=0.*at least 1'),
    (lambda: robust.krum(1, power=0), 'power=0.*positive'),
    (lambda: robust.geometric_median(smoothing=0.), 'smoothing=0.0'),
    (lambda: robust.nearest_neighbour_mixing(-2), 'num_byzantine=-2'),
    (lambda: robust.centered_clipping(-1.), 'radius=-1.0.*positive'),
    (lambda: robust.centered_clipping(1., 0), 'num_steps=0'),
    (lambda: robust.krum(2)(jnp.eye(4)), 'n=4.*num_byzantine=2.*least 5'),
    (lambda: robust.krum(0, 5)(jnp.eye(4)), 'num_selected=5.*least 5'),
    (lambda: robust.krum(0, num_neighbours=4)(jnp.eye(4)), 'at least 5'),
    (lambda: robust.nearest_neighbour_mixing(4)(jnp.eye(4)), 'n=4.*least 5'),
  )
  def test_bad_arguments(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
