"""Rules that combine, and the plainest, against direct forms on vectors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import combining, core
from tests.weightings_robust_test import (
  KINDS, SIZES, cases, compiled, gram_of, hard_input,
)

EPS = float(np.finfo(np.float32).eps)


def several(kind, n, times=8):
  """Gradients [times, n, dim], what is hard about them spread at random."""
  x = hard_input(kind, times * n)
  return np.random.default_rng(n).permutation(x).reshape(times, n, -1)


@functools.lru_cache
def compiled_step(decay):
  return jax.jit(combining.adacons(decay).step)


def absences(n):
  """Everyone, two random halves, one alone, and nobody."""
  some = np.random.default_rng(n).random((2, n)) < .5
  return np.stack([np.ones(n, bool), *some, np.arange(n) == n // 2,
                   np.zeros(n, bool)])


def add(a, b):
  """Of (vector, Σ of its terms' lengths, Σ of (that / length)² so far)."""
  (u, *_), (v, *_) = a, b
  total = reach = loss = 0
  for x, reach_x, loss_x in a, b:
    square = x @ x
    c = 1 - u @ v / (2 * square) if square else 1
    total, reach = total + c * x, reach + abs(c) * reach_x
    loss += loss_x + (reach_x ** 2 / square if square else 0)
  return total, reach, loss


def adasum_terms(terms):
  if len(terms) < 2:
    return terms[0]
  pairs = [add(*terms[i:i + 2]) for i in range(0, len(terms) - 1, 2)]
  return adasum_terms(pairs + terms[len(pairs) * 2:])


def adasum(x):
  """The sum over the tree, and how far float32 may be from it."""
  total, reach, loss = adasum_terms(
    [(row, np.linalg.norm(row), 0) for row in x])
  # A square is off by ε (Σ of its terms' lengths)², and so, to first order,
  # all that it shortens by ε times `loss`; the weights are rounded as well.
  return total, EPS * reach * (1 + loss)


def adacons(steps, decay):
  """Of each (x, present), the shares w_i ‖g_i‖, their error, and all α ≥ 0."""
  m = m_error = None
  for x, present in steps:
    n, g = len(x), x[present]
    norms = np.linalg.norm(g, axis=1)
    alphas = g @ g.sum(0) / np.where(norms > 0, norms, 1) / max(len(g), 1)
    shares = np.zeros(n)
    if not len(g):
      yield shares, 0, True
      continue
    # A row of the Gram is summed, divided by p, and multiplied.
    error = (n + 4) * EPS * norms.mean()
    slots = np.linspace(0, 1, n)
    points = np.linspace(0, 1, len(g)) if len(g) > 1 else np.array([.5])
    order = np.argsort(alphas, kind='stable')
    new, smooth = np.interp(slots, points, alphas[order]), alphas.copy()
    if m is not None:
      old = np.interp(points, slots, m)
      for rank, i in enumerate(order):
        smooth[i] = decay * old[rank] + (1 - decay) * alphas[i]
      new = decay * m + (1 - decay) * new
      error = decay * m_error + (1 - decay) * error
    m, m_error, total = new, error, smooth.sum()
    if abs(total) < 2e-6 * np.abs(smooth).sum() + len(g) * error:
      yield shares, np.inf, False  # Whether Σ α is positive is rounding.
      continue
    if total > 0:
      share = smooth / total * (norms > 0)
      error *= (1 + len(g) * np.abs(share).max()) / total
    else:
      share, error = (norms > 0) / max((norms > 0).sum(), 1), 4 * EPS
    shares[present] = share
    yield shares, error, smooth.min() >= 0


def cosine_distances(x):
  """Infinite to and from zero vectors."""
  norms = np.linalg.norm(x, axis=1)
  alive = np.outer(norms, norms) > 0
  return np.where(
    alive, 1 - x @ x.T / np.where(alive, np.outer(norms, norms), 1), np.inf)


def neighbours(x, tau):
  d, best = cosine_distances(x), []
  for i in range(len(x)):
    near = [j for j in range(len(x)) if d[i, j] <= tau or i == j]
    best = near if len(near) > len(best) else best
  return np.isin(np.arange(len(x)), best) * (len(best) > 1) / len(best)


def sq_distances(x):
  return ((x[:, None] - x[None]) ** 2).sum(-1)


class DefinitionTest(parameterized.TestCase):

  @parameterized.product(cases())
  def test_adasum(self, kind, n):
    x, weigh = hard_input(kind, n), compiled(combining.adasum)
    for present in filter(np.any, absences(n)):
      w = np.float64(weigh(gram_of(x), present=present))
      expected, error = adasum(x[present])
      self.assertLessEqual(np.linalg.norm(w @ x - expected), error)
      if kind != 'line':  # There sums cancel, and little can be known.
        self.assertLessEqual(error, 2e-4 * np.linalg.norm(x, axis=1).max())

  def test_adasum_of_what_cancels(self):
    x = hard_input('random', 4)
    x[1] = -x[0]
    w = compiled(combining.adasum)(gram_of(x))
    expected, error = adasum(x[2:])
    # The first two keep coefficients of 3/2, which are rounded.
    error += 4 * EPS * np.linalg.norm(x[0])
    self.assertLess(np.linalg.norm(np.float64(w) @ x - expected), error)

  @parameterized.product(cases(), decay=(0., .9))
  def test_adacons(self, kind, n, decay):
    step, state = compiled_step(decay), combining.adacons(decay).init(n)
    given = np.random.default_rng(n).random((8, n)) < .7
    given[::3], given[4] = True, False
    steps, undecided = list(zip(several(kind, n), given)), 0
    for (x, present), (shares, error, positive) in zip(
        steps, adacons(steps, decay)):
      x = np.where(present[:, None], x, 0)
      w, state = step(gram_of(x), present, state, None)
      norms = np.linalg.norm(x, axis=1)
      got = np.float64(w) * norms
      if np.isinf(error):
        undecided += 1
      elif kind in ('line', 'duplicates'):
        # Coefficients may tie, and which then comes first is rounding.
        np.testing.assert_allclose(
          np.sort(got[present]), np.sort(shares[present]), 8 * EPS, error)
      else:
        np.testing.assert_allclose(got, shares, 8 * EPS, error)
      if positive:
        self.assertLessEqual(np.linalg.norm(w @ x), 1 + n * EPS)
      self.assertFalse(np.asarray(w)[norms == 0].any())
    self.assertEqual(state.count, given.any(1).sum())
    # On a line as many may point either way.
    self.assertLessEqual(undecided, 4 if kind == 'line' else 0)

  @parameterized.parameters(.02, .3, 1., 1.7)
  def test_max_neighbours(self, tau):
    weigh, skipped, total = compiled(combining.max_neighbours, tau), 0, 0
    for kind, n in itertools.product(KINDS, SIZES):
      for x, present in itertools.product(several(kind, n, 3), absences(n)):
        g, total = x[present], total + 1
        # A cosine is rounded about six times.
        if (np.abs(cosine_distances(g) - tau) < 6 * EPS).any():
          skipped += 1
          continue
        expected = np.zeros(n)
        expected[present] = neighbours(g, tau)
        np.testing.assert_allclose(
          weigh(gram_of(x), present=present), expected, EPS)
    self.assertLess(skipped, .01 * total)

  @parameterized.product(cases(), f=(0, 1, 3))
  def test_minimum_diameter(self, kind, n, f):
    f, x = min(f, n - 1), hard_input(kind, n)
    seen = x - x.mean(0) if kind == 'duplicates' else x
    squares, norms = sq_distances(x), (seen ** 2).sum(1)
    for present in absences(n):
      w = np.asarray(compiled(combining.minimum_diameter, f)(
        gram_of(seen), present=present))
      size = present.sum() - f
      if size <= 0:
        self.assertFalse(w.any())
        continue
      self.assertEqual(sorted(w)[-size:], [np.float32(1 / size)] * size)
      sets = [list(s) for s in
              itertools.combinations(np.flatnonzero(present), size)]
      diameters = np.array([squares[np.ix_(s, s)].max() for s in sets])
      # ‖a‖² + ‖b‖² − 2a·b, scaled, is rounded about four times.
      errors = 8 * EPS * np.array([norms[s].max() for s in sets])
      chosen, highest = np.flatnonzero(w).tolist(), (diameters + errors).min()
      near = diameters - errors <= highest
      self.assertTrue(near[sets.index(chosen)])
      if near.sum() == 1:
        self.assertEqual(chosen, sets[diameters.argmin()])

  @parameterized.product(cases(), max_norm=(.5, 4., 1e3))
  def test_norm_clipping_and_mean(self, kind, n, max_norm):
    x = hard_input(kind, n)
    norms = np.maximum(np.linalg.norm(x, axis=1), 1e-99)
    for present in absences(n):
      share = present / max(present.sum(), 1)
      np.testing.assert_allclose(
        compiled(core.norm_clipping, max_norm)(gram_of(x), present=present),
        share * np.minimum(1, max_norm / norms), 4 * EPS)
      np.testing.assert_allclose(
        compiled(core.mean)(gram_of(x), present=present), share, EPS)

  @parameterized.product(cases())
  def test_sq_distances(self, kind, n):
    x = hard_input(kind, n)
    got, squares = np.asarray(SQ_DISTANCES(gram_of(x))), (x ** 2).sum(1)
    error = 4 * EPS * (squares[:, None] + squares[None, :])
    self.assertTrue((np.abs(got - sq_distances(x)) <= error).all())
    self.assertGreaterEqual(got.min(), 0)
    self.assertFalse(np.diagonal(got).any())


SQ_DISTANCES = jax.jit(core.sq_distances)
RULES = dict(
  adasum=combining.adasum(),
  adacons=combining.adacons(),
  neighbours=combining.max_neighbours(.5),
  diameter=combining.minimum_diameter(1),
  clipping=core.norm_clipping(2.),
  mean=core.mean(),
)
WEIGH = {name: jax.jit(rule.__call__) for name, rule in RULES.items()}


class PropertyTest(parameterized.TestCase):

  @parameterized.parameters('adasum', 'neighbours', 'diameter', 'adacons')
  def test_scale(self, name):
    x = hard_input('random', 7)
    w = WEIGH[name](gram_of(x))
    for scale in (1e-15, 1e6, 1e15):
      got = WEIGH[name](gram_of(scale * x))
      got = got * scale if name == 'adacons' else got
      # Other scales round otherwise, each of the n² products.
      np.testing.assert_allclose(got, w, 49 * EPS)

  @parameterized.parameters(2, 3, 8)
  def test_adasum_of_orthogonal_equal_and_two(self, n):
    weigh = compiled(combining.adasum)
    self.assertEqual(weigh(np.diag(np.arange(n) ** 2.)).tolist(), [1] * n)
    self.assertAlmostEqual(float(weigh(np.full((n, n), 3.)).sum()), 1, 6)
    x = hard_input('random', n)[:2]
    np.testing.assert_allclose(
      weigh(gram_of(x)), weigh(gram_of(x[::-1]))[::-1], 4 * EPS)

  def test_adacons_where_directions_count_alike(self):
    for x in ([3., -3.], [10., -1., -1.]):
      x = np.array(x)
      np.testing.assert_allclose(
        WEIGH['adacons'](np.outer(x, x)), 1 / len(x) / abs(x), 4 * EPS)

  @parameterized.parameters(1e-9, 1., 1e9)
  def test_adacons_is_at_most_one_long(self, scale):
    for n in SIZES:  # All of one orthant, so that no coefficient is negative.
      x = scale * np.abs(hard_input('random', n))
      w = compiled(combining.adacons)(gram_of(x))
      self.assertLessEqual(np.linalg.norm(w @ x), 1 + n * EPS)

  def test_max_neighbours_ties_and_ends(self):
    weigh = lambda tau, x: combining.max_neighbours(tau)(gram_of(x)).tolist()
    eye = np.eye(4)
    self.assertEqual(weigh(.5, eye[[3, 0, 1, 0, 1]]), [0, .5, 0, .5, 0])
    self.assertEqual(weigh(.99, eye), [0] * 4)
    self.assertEqual(weigh(1, eye), [.25] * 4)
    self.assertEqual(weigh(1, -eye[:1]), [0])
    self.assertEqual(weigh(2, np.array([[2.], [-3.]])), [.5, .5])
    self.assertEqual(weigh(2, np.array([[2.], [0.]])), [0, 0])
    turns = np.radians([0, 40, 80])  # Only the second has both others near.
    w = weigh(1 - np.cos(.8), np.stack([np.cos(turns), np.sin(turns)], 1))
    self.assertEqual(w, [np.float32(1 / 3)] * 3)

  def test_minimum_diameter_ties(self):
    x = np.array([[5.], [0], [1], [2], [9]])
    weigh = combining.minimum_diameter(3)
    self.assertEqual(weigh(gram_of(x)).tolist(), [0, .5, .5, 0, 0])
    self.assertEqual(weigh(np.ones((5, 5))).tolist(), [.5, .5, 0, 0, 0])

  def test_sq_distances_are_clamped(self):
    gram = np.array([[1, 1 + EPS], [1 + EPS, 1]], np.float32)
    self.assertEqual(SQ_DISTANCES(gram).tolist(), [[0, 0], [0, 0]])


class MechanicsTest(parameterized.TestCase):

  @parameterized.parameters(*RULES)
  def test_absent_gradients_do_not_count(self, name):
    x = hard_input('random', 9)
    present = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1], bool)
    x[~present] = np.nan
    got = WEIGH[name](gram_of(x), present=present)
    expected = WEIGH[name](gram_of(x[present]))
    np.testing.assert_allclose(got[present], expected, 49 * EPS)
    self.assertEqual(got[~present].tolist(), [0, 0])

  @parameterized.parameters(*RULES)
  def test_never_nan(self, name):
    for kind, scale in itertools.product(KINDS, (0, 1e-15, 1e-3, 1, 1e12)):
      for present in absences(7):
        x = scale * hard_input(kind, 7)
        w = WEIGH[name](gram_of(x), present=present)
        self.assertTrue(np.isfinite(w).all())

  @parameterized.parameters(*RULES)
  def test_transformations(self, name):
    rule = RULES[name]
    grams = np.stack([gram_of(hard_input(k, 6)) for k in KINDS[:5]])
    close = functools.partial(np.testing.assert_allclose, rtol=99 * EPS,
                              desired=np.stack([WEIGH[name](g) for g in grams]))
    close(jax.vmap(rule)(grams))
    close(jax.lax.scan(lambda _, g: (None, rule(g)), None, grams)[1])
    close(jax.jit(jax.shard_map(
      lambda g: rule(g[0])[None], in_specs=jax.P('x'), out_specs=jax.P('x'),
      mesh=jax.sharding.Mesh(jax.devices()[:5], 'x')))(grams))


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: combining.adacons(-.1), 'decay=-0.1.*at least 0'),
    (lambda: combining.adacons(1), 'decay=1.*below 1'),
    (lambda: combining.max_neighbours(-.1), 'max_cosine_distance=-0.1'),
    (lambda: combining.max_neighbours(2.1), 'max_cosine_distance=2.1'),
    (lambda: combining.minimum_diameter(-1), 'num_byzantine=-1.*at least 0'),
    (lambda: combining.minimum_diameter(.5), 'num_byzantine=0.5.*whole'),
    (lambda: combining.minimum_diameter(3)(jnp.eye(3)), 'n=3.*least 4'),
    (lambda: combining.minimum_diameter(7)(jnp.eye(18)), 'n=18.*at most'),
    (lambda: core.norm_clipping(0.), 'max_norm=0.0.*positive'),
    (lambda: core.mean()(jnp.ones((2, 3))), r'\(2, 3\).*square'),
    (lambda: core.Weighting(None, needs_key=True)(jnp.eye(2)), 'key=None'),
  )
  def test_bad_arguments(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
