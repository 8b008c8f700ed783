"""The options of agreement filtering: fallbacks, counts, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings.filtering_loop import (
  KINDS,
  RNG,
  THRESHOLDS,
  cosine,
  gradients,
  weigh,
)


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
