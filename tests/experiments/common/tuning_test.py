"""Steps to a target, and rates chosen by them."""

import numpy as np
from absl.testing import absltest, parameterized

from experiments.common import tuning

INF, NAN = np.inf, np.nan


class StepsToTest(parameterized.TestCase):

  @parameterized.parameters(
    ([4., 2., 0.], 3., 5.),  # half way between two records
    ([4., 2., 0.], 2., 10.),
    ([1., 2., 0.], 3., 0.),  # at once
    ([4., 3., 2.], 1., INF),
    ([4., NAN, 0.], 1., 20.),  # nothing is known between
    ([NAN, NAN, NAN], 1., INF),
    ([4., 0., 4.], 1., 7.5))  # the first time counts
  def test_a_falling_loss(self, values, target, steps):
    found = tuning.steps_to(
      target, np.array([0, 10, 20]), np.array([values, values]))
    np.testing.assert_allclose(found, [steps, steps])

  def test_a_rising_accuracy(self):
    found = tuning.steps_to(0.75, np.array([0, 8]), np.array([0.5, 1.]),
                            falling=False)
    self.assertEqual(found, 4)


class ChoiceTest(absltest.TestCase):

  def test_more_runs_that_get_there_win_then_fewer_steps(self):
    self.assertEqual(tuning.fewest(
      np.array([[1., INF], [9., 9.], [8., 9.], [INF, INF]])), 2)
    self.assertEqual(tuning.fewest(np.full((3, 2), INF)), 0)
    found = tuning.fewest(np.array([[[1.], [2.]], [[2.], [1.]]]))
    np.testing.assert_array_equal(found, [0, 1])

  def test_the_luck_of_a_run_does_not_choose_its_own_rate(self):
    steps = np.array([[1., 9., 9.], [5., 5., 5.]])
    np.testing.assert_array_equal(tuning.chosen_on_others(steps), [1, 0, 0])

  def test_edges(self):
    found = tuning.is_at_edge(np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(found, [True, False, True])


if __name__ == '__main__':
  absltest.main()
