"""The values that TorchJD publishes for its rules."""

import numpy as np
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import rules

# What TorchJD 0.17 publishes in tests/unit/aggregation/test_values.py, for
# the gradients (-4, 1, 1) and (6, 1, 1): weights, or the update, to 1e-4.
ROWS = np.array([[-4., 1, 1], [6, 1, 1]])
WEIGHTS = (
  ('aligned_mtl', (0.5591, 0.4083)),
  ('cagrad', (0.7041, 0.5)),
  ('dual_proj', (0.6109, 0.5)),
  # There of FairGrad(1), which is Nash-MTL without a limit.
  ('free nash_mtl', (0.5915, 0.4071)),
  ('gradvac', (2.2222, 1.5789)),
  ('imtl_g', (0.5923, 0.4077)),
  ('mgda', (0.6, 0.4)),
  ('pcgrad', (2.2222, 1.5789)),
  ('upgrad', (1.1109, 0.7894)),
)
UPDATES = (
  ('aligned_mtl', (0.2133, 0.9673, 0.9673)),
  ('cagrad', (0.1835, 1.2041, 1.2041)),
  ('conflict_free', (0.1588, 2.0706, 2.0706)),
  ('dual_proj', (0.5563, 1.1109, 1.1109)),
  ('gradvac', (0.5848, 3.8012, 3.8012)),
  ('imtl_g', (0.0767, 1., 1.)),
  ('mgda', (0., 1., 1.)),
  ('nash_mtl', (0.0542, 0.7061, 0.7061)),
  ('pcgrad', (0.5848, 3.8012, 3.8012)),
  ('upgrad', (0.2929, 1.9004, 1.9004)),
)


class PublishedValuesTest(parameterized.TestCase):

  @parameterized.parameters(*WEIGHTS)
  def test_weights(self, name, expected):
    np.testing.assert_allclose(
      rules.weigh(name, ROWS @ ROWS.T), expected, atol=1e-4, rtol=0)

  @parameterized.parameters(*UPDATES)
  def test_updates(self, name, expected):
    np.testing.assert_allclose(
      rules.update(name, ROWS), expected, atol=1e-4, rtol=0)


if __name__ == '__main__':
  absltest.main()
