"""CR-MOGM: averages of another rule's weights."""

import numpy as np
from absl.testing import absltest

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules

GRAMS = [inputs.gram_of(inputs.losses('aligned', 5) + shift)
         for shift in (0, 1, -1)]


class CRMOGMTest(absltest.TestCase):

  def test_definition(self):
    state, average = None, None
    for gram in GRAMS:
      weights, state = rules.step('cr_mogm', gram, state=state)
      new = rules.weigh('mgda', gram)
      average = new if average is None else .9 * average + .1 * new
      np.testing.assert_allclose(weights, average, 1e-5, 1e-6)

  def test_an_absent_gradient_keeps_its_average(self):
    first, state = rules.step('cr_mogm', GRAMS[0])
    weights, state = rules.step(
      'cr_mogm', GRAMS[1], np.arange(5) != 2, state)
    self.assertEqual(weights[2], 0)
    self.assertEqual(state.averages[2], first[2])

  def test_a_new_gradient_begins_with_its_own_weight(self):
    _, state = rules.step('cr_mogm', GRAMS[0], np.arange(5) != 2)
    weights, _ = rules.step('cr_mogm', GRAMS[1], state=state)
    self.assertAlmostEqual(
      weights[2], rules.weigh('mgda', GRAMS[1])[2], places=5)

  def test_decay_is_named(self):
    with self.assertRaisesRegex(ValueError, '^decay='):
      weightings.cr_mogm(weightings.mgda(), 1.)


if __name__ == '__main__':
  absltest.main()
