"""Agreement filtering on Gram matrices equals a loop over the gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings

RNG = np.random.default_rng(6)
SIZES = (1, 2, 5, 16)
THRESHOLDS = (0., 0.7, 0.9, 0.97, 1., 1.05, 2.)
EPS = np.finfo(np.float32).eps


def cosine(x, y):
  norms = np.linalg.norm(x) * np.linalg.norm(y)
  return x @ y / norms if norms > 0 else np.nan


def loop(rows, tau, combine, order=None):
  """The published loop, in float64: weights, and how close each call was.

  Weights are carried along only to be compared; decisions look at vectors.
  """
  n = len(rows)
  if combine == 'leave_one_out':
    distances = [1 - cosine(rows.sum(0) - g, g) for g in rows]
    kept = [i for i in range(n) if distances[i] <= tau]
    weights = np.zeros(n)
    weights[kept] = 1 / max(len(kept), 1)
    margins = [abs(d - tau) for d in distances if np.isfinite(d)]
  else:
    order = range(n) if order is None else order
    # A gradient of zero is no anchor.
    order = [i for i in order if rows[i].any()]
    if not order:
      return np.zeros(n), np.inf
    first, margins, weights = order[0], [], np.zeros(n)
    m, kept = rows[first], [first]
    weights[first] = 1
    for i in order[1:]:
      reference = rows[first] if combine == 'first' else m
      distance = 1 - cosine(reference, rows[i])
      if np.isfinite(distance):
        margins.append(abs(distance - tau))
      if not distance <= tau:
        continue
      add = 1 / 2 if combine == 'halving' else 1 / (len(kept) + 1)
      m = (1 - add) * m + add * rows[i]
      weights *= 1 - add
      weights[i] += add
      kept.append(i)
  if len(kept) < 2:
    weights[:] = 0
  return weights, min(margins, default=np.inf)


def gradients(kind, n, dim=600):
  rows = RNG.normal(size=(n, dim))
  return {
    'orthogonal': lambda: rows,
    'aligned': lambda: rows + 1.5 * RNG.normal(size=dim),
    'weakly aligned': lambda: rows + 0.2 * RNG.normal(size=dim),
    'conflicting': lambda: rows - 0.97 * rows.mean(0),
    'two camps': lambda: 0.7 * rows + RNG.normal(size=dim)
    * RNG.choice([-1, 1], (n, 1)),
    'lengths': lambda: (rows + RNG.normal(size=dim))
    * np.geomspace(1e-3, 1e3, n)[:, None],
    'copies': lambda: np.repeat(rows[:1], n, 0) * RNG.choice([1, 1, -1], (
      n, 1)),
    'some zero': lambda: rows * RNG.choice([0, 1], (n, 1)) + 0,
  }[kind]()


KINDS = ('orthogonal', 'aligned', 'weakly aligned', 'conflicting', 'two camps',
         'lengths', 'copies', 'some zero')


@functools.cache
def gram_of(n, dtype):
  """Compile one program for all inputs of a shape."""
  del n, dtype
  return gradiv.map_workers(lambda g: gradiv.worker_gram(g, 'workers'),
                            'workers', in_axes=(0,), out_axes=None)


@functools.cache
def weigh(combine, **options):
  """Compile one program for all thresholds."""
  return jax.jit(lambda gram, tau, key=None: weightings.agreement(
    tau, combine=combine, **options)(gram, key=key))


class LoopTest(parameterized.TestCase):

  @parameterized.product(
    combine=weightings.COMBINE,
    case=(*((n, 'float32') for n in SIZES), (5, 'bfloat16')))
  def test_equals_the_loop(self, combine, case):
    """Decisions flip only within rounding of the threshold."""
    n, dtype = case
    close = 0
    for kind in KINDS:
      grads = jnp.asarray(gradients(kind, n), dtype)
      rows = np.asarray(grads, np.float64)
      # As workers compute it, and as rounded once.
      gram = (gram_of(n, dtype)(grads) if n == 5
              else np.float32(rows @ rows.T))
      for tau in THRESHOLDS:
        expected, margin = loop(rows, tau, combine)
        # Beyond τ = 1 sums may cancel, and their cosines lose digits.
        if margin <= (8 * EPS if tau <= 1 else 500 * EPS) * np.sqrt(n):
          close += 1
          continue
        actual = np.asarray(weigh(combine)(gram, tau))
        self.assertEqual((actual != 0).tolist(), (expected != 0).tolist(),
                         (kind, tau, margin))
        np.testing.assert_allclose(actual, expected, 1e-5, 1e-7)
    self.assertLess(close, 0.2 * len(KINDS) * len(THRESHOLDS))

  @parameterized.parameters(*[c for c in weightings.COMBINE
                              if c != 'leave_one_out'])
  def test_shuffled(self, combine):
    rows = gradients('two camps', 8)
    key, seen = jax.random.key(3), set()
    for i in range(6):
      step_key = jax.random.fold_in(key, i)
      order = np.asarray(jax.random.permutation(step_key, 8))
      expected, _ = loop(rows, 0.9, combine, order)
      actual = weigh(combine, shuffle=True)(
        np.float32(rows @ rows.T), 0.9, step_key)
      np.testing.assert_allclose(actual, expected, 1e-5, 1e-7)
      seen.add(int(order[0]))
    self.assertGreater(len(seen), 1)

  def test_other_anchors_are_tried_until_one_agrees(self):
    # The first disagrees with all; the second is half of a pair.
    rows = np.array([[-1., 0, 0], [1, 0, 0], [0, 1, 0], [1, .1, 0]])
    gram = np.float32(rows @ rows.T)
    for tries, expected in ((1, [0, 0, 0, 0]), (2, [0, .5, 0, .5]),
                            (9, [0, .5, 0, .5])):
      weights = weigh('running_mean', num_anchors=tries)(gram, 0.5)
      np.testing.assert_allclose(weights, expected)


class PropertyTest(parameterized.TestCase):

  @parameterized.parameters(*THRESHOLDS)
  def test_two_gradients_make_all_modes_one(self, tau):
    for kind in KINDS[:-1]:
      rows = gradients(kind, 2)
      gram = np.float32(rows @ rows.T)
      results = [np.asarray(weigh(c)(gram, tau)) for c in weightings.COMBINE]
      for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)

  @parameterized.parameters(5, 16)
  def test_at_two_all_agree_with_the_mean(self, n):
    rows = gradients('conflicting', n)
    for combine in ('running_mean', 'first', 'leave_one_out'):
      weights = weigh(combine)(np.float32(rows @ rows.T), 2.)
      np.testing.assert_allclose(weights, np.full(n, 1 / n), 1e-5)

  @parameterized.parameters(*weightings.COMBINE)
  def test_decisions_do_not_depend_on_scale(self, combine):
    rows = gradients('weakly aligned', 5)
    gram = np.float32(rows @ rows.T)
    expected = np.asarray(weigh(combine)(gram, 0.97))
    for scale in (1e-30, 1e-6, 1e6, 1e30):
      np.testing.assert_array_equal(
        weigh(combine)(np.float32(gram * scale), 0.97), expected)

  def test_halving_never_counts_for_more_than_three(self):
    for n, worth in ((2, 2), (5, 128 / 43), (16, 3)):
      weights = np.asarray(weigh('halving')(np.ones((n, n), np.float32), 1.))
      self.assertAlmostEqual(weights.sum(), 1, 6)
      self.assertAlmostEqual(1 / np.sum(weights**2), worth, 3)
      mean = np.asarray(weigh('running_mean')(np.ones((n, n), 'f'), 1.))
      self.assertAlmostEqual(1 / np.sum(mean**2), n, 3)

  @parameterized.parameters(*weightings.COMBINE)
  def test_leave_one_out_alone_is_blind_to_order(self, combine):
    # Three agree; the one that does not is the anchor, or comes last.
    rows = np.array([[-1., 0], [1, 0], [1, .1], [1, .2]])
    order = np.array([1, 2, 3, 0])
    one, other = (np.asarray(weigh(combine)(np.float32(x @ x.T), 0.8))
                  for x in (rows, rows[order]))
    self.assertEqual(np.allclose(other, one[order], 1e-5),
                     combine == 'leave_one_out')

  @parameterized.parameters(*weightings.COMBINE)
  def test_zero_gradients(self, combine):
    """They have no direction, and are neither joined nor anchor."""
    rows = np.array([[1., 0], [0, 0], [1, .1]])
    weights = weigh(combine)(np.float32(rows @ rows.T), 2.)
    np.testing.assert_allclose(weights, [.5, 0, .5])
    rows = rows[[1, 0, 2]]
    weights = weigh(combine)(np.float32(rows @ rows.T), 2.)
    np.testing.assert_allclose(weights, [0, .5, .5])

  @parameterized.parameters(
    ('running_mean', 'mean'), ('halving', 'closest_pair'),
    ('first', 'closest_pair'), ('leave_one_out', 'mean'))
  def test_absent_gradients_do_not_count(self, combine, fallback):
    rows = gradients('weakly aligned', 5)
    present = np.array([0, 1, 1, 0, 1], bool)
    gram = np.float32(np.where(np.outer(present, present), rows @ rows.T, 0))
    rule = jax.jit(lambda tau, gram, present: weightings.agreement(
      tau, combine=combine, fallback=fallback)(gram, present=present))
    for tau in (0., 0.9):  # The fallback decides, or the filter.
      weights = np.asarray(rule(tau, gram, present))
      expected = rule(tau, np.float32(rows[present] @ rows[present].T),
                      np.ones(3, bool))
      np.testing.assert_allclose(weights[present], expected, 1e-5)
      self.assertEqual(weights[~present].tolist(), [0, 0])


class OptionsTest(parameterized.TestCase):

  def test_fallbacks(self):
    rows = np.array([[1., 0, 0], [-1, 0, 0.5], [0, 1, 0.1]])
    gram = np.float32(rows @ rows.T)
    cosines = [cosine(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    self.assertEqual(np.argmax(cosines), 2)
    for fallback, expected in (
        ('zero', [0, 0, 0]), ('mean', [1 / 3] * 3),
        ('closest_pair', [0, .5, .5])):
      weights = weigh('running_mean', fallback=fallback)(gram, 0.2)
      np.testing.assert_allclose(weights, expected, 1e-6)

  def test_fewest_that_must_agree(self):
    rows = np.array([[1., 0], [1, .1], [-1, 0]])
    gram = np.float32(rows @ rows.T)
    for least, expected in ((1, [.5, .5, 0]), (2, [.5, .5, 0]), (3, [0] * 3)):
      np.testing.assert_allclose(
        weigh('running_mean', min_agreed=least)(gram, 0.5), expected)
    alone = weigh('running_mean', min_agreed=1)(np.ones((1, 1), 'f'), 0.5)
    np.testing.assert_allclose(alone, [1])

  def test_count_aware_changes_nothing_for_two_nor_from_one_on(self):
    for kind in KINDS[:-1]:
      rows = gradients(kind, 2)
      gram = np.float32(rows @ rows.T)
      for tau in THRESHOLDS:
        np.testing.assert_array_equal(
          weigh('running_mean', count_aware=True)(gram, tau),
          weigh('running_mean')(gram, tau))
    rows = gradients('conflicting', 8)
    gram = np.float32(rows @ rows.T)
    for tau in (1., 1.05, 2.):
      np.testing.assert_array_equal(
        weigh('running_mean', count_aware=True)(gram, tau),
        weigh('running_mean')(gram, tau))

  @parameterized.parameters('running_mean', 'halving', 'leave_one_out')
  def test_count_aware_is_stricter(self, combine):
    tau, agreed = 0.9, {}
    for aware in (False, True):
      counts = []
      for seed in range(20):
        rng = np.random.default_rng(seed)
        # A little noisier than what τ admits.
        rows = rng.normal(size=(16, 4000)) * np.sqrt(12 / 4000)
        rows[:, 0] += 1
        weights = weigh(combine, count_aware=aware)(
          np.float32(rows @ rows.T), tau)
        counts.append(np.count_nonzero(weights))
      agreed[aware] = np.mean(counts)
    self.assertLess(agreed[True], 0.8 * agreed[False])

  def test_threshold_as_a_schedule(self):
    rows = np.array([[1., 0], [1, 1]])
    gram = jnp.float32(rows @ rows.T)
    rule = weightings.agreement(lambda count: jnp.where(count < 2, 1., 0.1))
    step, state, found = jax.jit(rule.step), rule.init(2), []
    for _ in range(4):
      weights, state = step(gram, jnp.ones(2, bool), state, None)
      found.append(float(weights.sum()))
    np.testing.assert_allclose(found, [1, 1, 0, 0])

  def test_window_follows_the_distances(self):
    """τ is at most mean + 2 standard deviations of the last distances."""
    rule = weightings.agreement(2., window=5, num_stddevs=2.)
    step, state, past = jax.jit(rule.step), rule.init(2), []
    for i in range(30):
      angle = RNG.uniform(0.4, 0.6) if i % 7 else 2.
      rows = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])
      weights, state = step(
        jnp.float32(rows @ rows.T), jnp.ones(2, bool), state, None)
      distance, recent = 1 - np.cos(angle), past[-5:]
      limit = (min(2, np.mean(recent) + 2 * np.std(recent, ddof=1))
               if len(recent) > 1 else 2)
      self.assertEqual(float(weights.sum()) > 0, distance <= limit, i)
      past.append(distance)
    np.testing.assert_allclose(state.distances, past[-5:], 1e-5)

  def test_without_a_window_the_state_holds_no_distances(self):
    state = weightings.agreement(1.).init(4)
    self.assertEqual(state.distances, ())

  @parameterized.parameters(
    dict(max_cosine_distance=-0.1), dict(max_cosine_distance=2.5),
    dict(max_cosine_distance=float('nan')), dict(combine='median'),
    dict(fallback='skip'), dict(num_anchors=0), dict(min_agreed=0),
    dict(window=-1), dict(num_stddevs=-1.),
    dict(num_anchors=2, combine='leave_one_out'))
  def test_bad_arguments_are_named(self, **given):
    with self.assertRaisesRegex(ValueError, f'^{next(iter(given))}='):
      weightings.agreement(**dict(max_cosine_distance=1.) | given)


if __name__ == '__main__':
  absltest.main()
