"""Minimum-diameter averaging, against all subsets of the gradients."""

import itertools

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import minimum_diameter
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.inputs import EPS


class MinimumDiameterTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 5, 9)
  def test_definition(self, n):
    f, weigh = n // 3, rules.compiled(minimum_diameter, n // 3)
    for kind in inputs.KINDS:
      # Duplicates as the Gram matrix of differences shows them.
      x = inputs.hard(kind, n) - (kind == 'duplicates')
      squares, norms = inputs.distances(x) ** 2, (x ** 2).sum(1)
      for present in inputs.absences(n):
        w = weigh(inputs.gram_of(x), present=present)
        size = max(present.sum() - f, 0)
        sets = np.array([
          *itertools.combinations(np.flatnonzero(present), size)], int)
        spans = squares[sets[:, :, None], sets[:, None]].max(
          (1, 2), initial=0)
        # ‖a‖² + ‖b‖² − 2a·b, scaled, is rounded about four times.
        errors = 8 * EPS * norms[sets].max(1, initial=0)
        near = spans - errors <= (spans + errors).min()
        with self.subTest(f'{kind} {present}'):
          self.assertIn(np.flatnonzero(w).tolist(), sets[near].tolist())
          np.testing.assert_allclose(w * size, w > 0, 2 * EPS)

  def test_ties_go_to_the_first_set(self):
    rows = np.array([[6.], [0], [2], [4], [16]])
    for x, given, chosen in (rows, 5, [0, 2, 3]), (0 * rows, 4, [0, 1]):
      w = rules.compiled(minimum_diameter, 2)(
        inputs.gram_of(x), present=np.arange(5) < given)
      self.assertEqual(np.flatnonzero(w).tolist(), chosen)

  @parameterized.parameters(
    lambda: minimum_diameter(-1),
    lambda: minimum_diameter(3)(jnp.eye(3)),
    lambda: minimum_diameter(7)(jnp.eye(18)))
  def test_bad_arguments_are_named(self, call):
    with self.assertRaisesRegex(ValueError, 'num_byzantine'):
      call()


if __name__ == '__main__':
  absltest.main()
