"""The largest neighborhood, against its definition on the gradients."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import max_neighbors
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.inputs import EPS


def neighbors(x, tau):
  """Return the weights, and whether any distance is within rounding of τ."""
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


class MaxNeighborsTest(parameterized.TestCase):

  @parameterized.parameters(.3, 1.7)
  def test_definition(self, tau):
    weigh, skipped, total = rules.compiled(max_neighbors, tau), 0, 0
    for kind, n in itertools.product(inputs.KINDS, inputs.SIZES):
      for x, present in itertools.product(
          inputs.several(kind, n, 3), inputs.absences(n)):
        x, total = x * present[:, None], total + 1
        expected, doubtful = neighbors(x, tau)
        skipped += doubtful
        if not doubtful:
          w = weigh(inputs.gram_of(x), present=present)
          np.testing.assert_allclose(w, expected, EPS)
    self.assertLess(skipped, .01 * total)

  @parameterized.parameters(
    (.3, np.eye(5)[[3, 0, 1, 0, 1]], [0, .5, 0, .5, 0]),  # The first pair.
    (.3, np.eye(5), [0] * 5),
    (1., np.eye(5), [np.float32(.2)] * 5),
    (2., np.array([[2.], [-4.], [0.], [0.], [0.]]), [.5, .5, 0, 0, 0]))
  def test_ties_and_ends(self, tau, x, expected):
    w = rules.compiled(max_neighbors, tau)(inputs.gram_of(x))
    self.assertEqual(w.tolist(), expected)

  def test_neighbors_of_the_best_need_not_agree_with_each_other(self):
    turns = np.radians([0, 40, 80, 170, 260])  # The second is near to two.
    x = np.stack([np.cos(turns), np.sin(turns)], 1)
    self.assertEqual(rules.weigh('max_neighbors', x @ x.T).tolist(),
                     [np.float32(1 / 3)] * 3 + [0, 0])

  @parameterized.parameters(-.1, 2.1)
  def test_the_distance_is_within_its_range(self, tau):
    with self.assertRaisesRegex(ValueError, 'max_cosine_distance'):
      max_neighbors(tau)


if __name__ == '__main__':
  absltest.main()
