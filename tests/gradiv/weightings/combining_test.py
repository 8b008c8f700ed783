"""Rules that combine, and the plainest, against direct forms on vectors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import combining, core
from tests.gradiv.weightings.robust_test import (
  KINDS,
  SIZES,
  cases,
  compiled,
  distances,
  gram_of,
  hard_input,
)

EPS = float(np.finfo(np.float32).eps)
compiled_step = functools.lru_cache(
  lambda decay: jax.jit(combining.adacons(decay).step))


def several(kind, n, times):
  """Gradients [times, n, dim], what is hard about them spread at random."""
  x = hard_input(kind, times * n)
  return np.random.default_rng(n).permutation(x).reshape(times, n, -1)


def absences(n):
  """Everyone, nobody, one alone, and two random halves."""
  some = np.random.default_rng(n).random((2, n)) < .5
  return np.array([[True] * n, [False] * n, np.arange(n) == n // 2, *some])


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


def adasum(x):
  """The sum over the tree, and how far float32 may be from it."""
  def tree(x):
    if len(x) == 1:
      return x[0], np.linalg.norm(x[0]), 0
    half = 1 << (len(x) - 1).bit_length() - 1
    return add(tree(x[:half]), tree(x[half:]))

  total, reach, loss = tree(x)
  # A square is off by ε (Σ of its terms' lengths)², and so, to first order,
  # all that it shortens by ε times `loss`; the weights are rounded as well.
  return total, EPS * reach * (1 + loss)


def adacons(steps, decay):
  """Of each (x, present), the shares w_i ‖g_i‖, their error, and all α ≥ 0."""
  m = m_error = None
  for x, present in steps:
    n, g, shares = len(x), x[present], np.zeros(len(x))
    if not len(g):
      yield shares, 0, True
      continue
    norms = np.linalg.norm(g, axis=1)
    alphas = g @ g.mean(0) / np.where(norms > 0, norms, 1)
    # A row of the Gram is summed, divided by p, and multiplied.
    error = (n + 4) * EPS * norms.mean()
    slots = np.linspace(0, 1, n)
    points = np.linspace(0, 1, len(g)) if len(g) > 1 else np.array([.5])
    order = np.argsort(alphas, kind='stable')
    new, smooth = np.interp(slots, points, alphas[order]), alphas.copy()
    if m is not None:
      for i, old in zip(order, np.interp(points, slots, m)):
        smooth[i] = decay * old + (1 - decay) * alphas[i]
      new = decay * m + (1 - decay) * new
      error = decay * m_error + (1 - decay) * error
    m, m_error, total = new, error, smooth.sum()
    if total > 0:
      shares[present] = smooth / total * (norms > 0)
      bound = error * (1 + len(g) * np.abs(shares).max()) / total
    else:
      shares[present], bound = (norms > 0) / max((norms > 0).sum(), 1), 4 * EPS
    # Whether Σ α is positive can be a matter of rounding.
    sure = abs(total) >= 2e-6 * np.abs(smooth).sum() + len(g) * error
    yield shares, bound if sure else np.inf, sure and smooth.min() >= 0


def neighbours(x, tau):
  """The weights, and whether any distance is within rounding of τ."""
  norms = np.linalg.norm(x, axis=1, keepdims=True)
  unit = x / np.where(norms > 0, norms, np.nan)
  cosine_distances = 1 - unit @ unit.T
  best, weights = [0], np.zeros(len(x))
  for row in cosine_distances:
    near = np.flatnonzero(row <= tau)
    best = near if len(near) > len(best) else best
  weights[best] = (len(best) > 1) / len(best)
  # A cosine is rounded about six times.
  return weights, (np.abs(cosine_distances - tau) < 6 * EPS).any()


class DefinitionTest(parameterized.TestCase):

  @parameterized.product(cases())
  def test_adasum(self, kind, n):
    x, weigh = hard_input(kind, n), compiled(combining.adasum)
    for present in filter(np.any, absences(n)):
      w = np.float64(weigh(gram_of(x), present=present))
      expected, error = adasum(x[present])
      self.assertLessEqual(np.linalg.norm(w @ x - expected), error)
      if kind != 'line':  # There sums cancel, and little can be known.
        self.assertLessEqual(error, 2e-4 * np.linalg.norm(x, 2))

  def test_adasum_of_what_cancels(self):
    for x in several('random', 5, 16):
      x[1] = -(1 + 1e-5) * x[0]
      w, (expected, error) = WEIGH['adasum'](gram_of(x)), adasum(x[2:])
      error += 2e-5 * np.linalg.norm(x[0])  # Left of the two, and rounding.
      self.assertLess(np.linalg.norm(np.float64(w) @ x - expected), error)

  @parameterized.product(cases(), decay=(0., .9))
  def test_adacons(self, kind, n, decay):
    step, state = compiled_step(decay), combining.adacons(decay).init(n)
    given = np.random.default_rng(n).random((8, n)) < .7
    given[1::3], given[::5] = True, False
    steps, undecided = list(zip(several(kind, n, 8), given)), 0
    # Coefficients may tie, and which then comes first is rounding.
    match = np.sort if kind in ('line', 'duplicates') else np.asarray
    for (x, present), (shares, error, positive) in zip(
        steps, adacons(steps, decay)):
      x = np.where(present[:, None], x, 0)
      w, state = step(gram_of(x), present, state, None)
      norms = np.linalg.norm(x, axis=1)
      undecided += np.isinf(error)
      if np.isfinite(error):
        np.testing.assert_allclose(
          match((w * norms)[present]), match(shares[present]), 8 * EPS, error)
      if positive or kind == 'offset':
        self.assertLessEqual(np.linalg.norm(w @ x), 1 + n * EPS)
      self.assertFalse(np.asarray(w)[norms == 0].any())
    # On a line as many may point either way.
    self.assertLessEqual(undecided, 4 if kind == 'line' else 0)

  @parameterized.parameters(.3, 1.7)
  def test_max_neighbours(self, tau):
    weigh, skipped, total = compiled(combining.max_neighbours, tau), 0, 0
    for kind, n in itertools.product(KINDS, SIZES):
      for x, present in itertools.product(several(kind, n, 3), absences(n)):
        x, total = x * present[:, None], total + 1
        expected, doubtful = neighbours(x, tau)
        skipped += doubtful
        if not doubtful:
          w = weigh(gram_of(x), present=present)
          np.testing.assert_allclose(w, expected, EPS)
    self.assertLess(skipped, .01 * total)

  @parameterized.product(cases())
  def test_minimum_diameter(self, kind, n):
    # Duplicates as the Gram of differences shows them.
    f, x = n // 3, hard_input(kind, n) - (kind == 'duplicates')
    weigh = compiled(combining.minimum_diameter, f)
    squares, norms = distances(x) ** 2, (x ** 2).sum(1)
    for present in absences(n):
      w, size = weigh(gram_of(x), present=present), max(present.sum() - f, 0)
      sets = np.array([
        *itertools.combinations(np.flatnonzero(present), size)], int)
      spans = squares[sets[:, :, None], sets[:, None]].max((1, 2), initial=0)
      # ‖a‖² + ‖b‖² − 2a·b, scaled, is rounded about four times.
      errors = 8 * EPS * norms[sets].max(1, initial=0)
      near = spans - errors <= (spans + errors).min()
      self.assertIn(np.flatnonzero(w).tolist(), sets[near].tolist())
      np.testing.assert_allclose(w * size, w > 0, 2 * EPS)

  @parameterized.product(cases())
  def test_plainest(self, kind, n):
    x = hard_input(kind, n)
    norms = np.linalg.norm(x, axis=1)
    for present in absences(n):
      share = present / max(present.sum(), 1)
      np.testing.assert_allclose(
        compiled(core.norm_clipping, 2.5)(gram_of(x), present=present),
        share * np.minimum(1, 2.5 / np.maximum(norms, 1e-9)), 4 * EPS)
      np.testing.assert_allclose(
        compiled(core.mean)(gram_of(x), present=present), share, EPS)
    got = np.asarray(jax.jit(core.sq_distances)(gram_of(x)))
    error = 4 * EPS * (norms[:, None] ** 2 + norms[None, :] ** 2)
    self.assertTrue((np.abs(got - distances(x) ** 2) <= error).all())
    self.assertGreaterEqual(got.min(), 0)  # Which duplicates would not be.
    self.assertFalse(np.diagonal(got).any())


CLOSE = 49 * EPS  # So far may n² products be rounded, where none cancel.
RULES = dict(
  adasum=combining.adasum(), adacons=combining.adacons(),
  neighbours=combining.max_neighbours(.1),
  diameter=combining.minimum_diameter(2),
  clipping=core.norm_clipping(2.), mean=core.mean())
WEIGH = {name: jax.jit(rule.__call__) for name, rule in RULES.items()}


class PropertyTest(parameterized.TestCase):

  @parameterized.product(name=('adasum', 'adacons', 'neighbours', 'diameter'),
                         scale=(1e-15, 1e6, 1e15))
  def test_scale(self, name, scale):
    x = hard_input('offset', 5)
    w, got = WEIGH[name](gram_of(x)), WEIGH[name](gram_of(scale * x))
    got *= scale if name == 'adacons' else 1
    np.testing.assert_allclose(got, w, CLOSE)

  def test_adasum_of_orthogonal_equal_and_two(self):
    weigh, two = WEIGH['adasum'], np.array([1, 0, 0, 1, 0], bool)
    self.assertEqual(weigh(np.diag(np.arange(5) ** 2.)).tolist(), [1] * 5)
    self.assertAlmostEqual(float(weigh(np.full((5, 5), 3.)).sum()), 1, 6)
    w = weigh(gram_of(hard_input('random', 5)), present=two)
    swapped = weigh(gram_of(hard_input('random', 5)[::-1]), present=two[::-1])
    np.testing.assert_allclose(swapped[::-1], w, 4 * EPS)

  def test_adacons_where_directions_count_alike(self):
    for x in ([3., -3., 2., -2.], [40., -1., -2., -1.]):
      got = WEIGH['adacons'](np.outer(x + [0], x + [0]))
      np.testing.assert_allclose(got[:4], .25 / np.abs(x), 4 * EPS)
      self.assertEqual(got[4], 0)

  def test_max_neighbours_ties_and_ends(self):
    weigh = lambda tau, x: compiled(
      combining.max_neighbours, tau)(gram_of(x)).tolist()
    eye = np.eye(5)
    self.assertEqual(weigh(.3, eye[[3, 0, 1, 0, 1]]), [0, .5, 0, .5, 0])
    self.assertEqual(weigh(.3, eye), [0] * 5)
    self.assertEqual(weigh(1., eye), [np.float32(.2)] * 5)
    self.assertEqual(weigh(2., np.array([[2.], [-4.], [0.]])), [.5, .5, 0])
    turns = np.radians([0, 40, 80, 170, 260])  # The second is near to two.
    w = weigh(.3, np.stack([np.cos(turns), np.sin(turns)], 1))
    self.assertEqual(w, [np.float32(1 / 3)] * 3 + [0, 0])

  def test_minimum_diameter_ties(self):
    x = np.array([[6.], [0], [2], [4], [16]])
    for x, given, chosen in (x, 5, [0, 2, 3]), (0 * x, 4, [0, 1]):
      w = WEIGH['diameter'](gram_of(x), present=np.arange(5) < given)
      self.assertEqual(np.flatnonzero(w).tolist(), chosen)


class MechanicsTest(parameterized.TestCase):

  @parameterized.parameters(*RULES)
  def test_absent_gradients_do_not_count(self, name):
    x, present = hard_input('offset', 7), np.ones(7, bool)
    present[[1, 4]] = False
    x[~present] = np.nan
    got = WEIGH[name](gram_of(x), present=present)
    expected = WEIGH[name](gram_of(x[present]))
    np.testing.assert_allclose(got[present], expected, CLOSE)
    self.assertEqual(got[~present].tolist(), [0, 0])

  @parameterized.parameters(*RULES)
  def test_never_nan(self, name):
    for kind, scale in itertools.product(KINDS, (0, 1e-15, 1e-3, 1, 1e12)):
      for present in absences(7):
        w = WEIGH[name](gram_of(scale * hard_input(kind, 7)), present=present)
        self.assertTrue(np.isfinite(w).all())

  @parameterized.parameters(*RULES)
  def test_transformations(self, name):
    rule = RULES[name]
    grams = np.stack([gram_of(x) for x in several('offset', 5, 3)])
    mapped = jax.shard_map(
      lambda g: rule(g[0])[None], in_specs=jax.P('x'), out_specs=jax.P('x'),
      mesh=jax.sharding.Mesh(jax.devices()[:3], 'x'))
    scanned = lambda g: jax.lax.scan(lambda _, h: (None, rule(h)), None, g)[1]
    expected = np.stack([WEIGH[name](g) for g in grams])
    for fn in (jax.vmap(rule), mapped, scanned):
      np.testing.assert_allclose(jax.jit(fn)(grams), expected, CLOSE)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: combining.adacons(-.1), 'decay=-0.1.*at least 0'),
    (lambda: combining.adacons(1), 'decay=1.*below 1'),
    (lambda: combining.max_neighbours(-.1), 'max_cosine_distance=-0.1'),
    (lambda: combining.max_neighbours(2.1), 'max_cosine_distance=2.1'),
    (lambda: combining.minimum_diameter(-1), 'num_byzantine=-1.*at least 0'),
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
