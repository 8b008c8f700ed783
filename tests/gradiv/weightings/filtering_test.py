"""Agreement filtering on Gram matrices equals a loop over the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings.filtering_loop import (
  EPS,
  KINDS,
  SIZES,
  THRESHOLDS,
  gradients,
  gram_of,
  loop,
  weigh,
)


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


if __name__ == '__main__':
  absltest.main()
