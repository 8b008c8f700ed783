"""Small statistics, as JSON can hold them."""

import math

from absl.testing import absltest, parameterized

from experiments.common import results


class ResultsTest(parameterized.TestCase):

  @parameterized.parameters(
    ([1., 2., 6.], [3., math.sqrt(7 / 3)]), ([2.], [2., None]),
    ([1., math.nan], [None, None]), ([1., math.inf], [None, None]))
  def test_mean_and_error(self, runs, found):
    for got, wanted in zip(results.mean_and_error(runs), found):
      self.assertAlmostEqual(got, wanted)

  def test_known(self):
    self.assertEqual([results.known(x) for x in (1, 0.5, math.nan, -math.inf)],
                     [1., 0.5, None, None])


if __name__ == '__main__':
  absltest.main()
