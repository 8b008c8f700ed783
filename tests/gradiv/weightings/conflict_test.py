"""Conflict rules against their definitions, and TorchJD's published values."""

import numpy as np
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import conflict_references as ref

KINDS = tuple(ref.inputs(2))
EACH = tuple((n, kind) for n in ref.SIZES for kind in KINDS)

# What TorchJD 0.17 publishes in tests/unit/aggregation/test_values.py, for
# the gradients (-4, 1, 1) and (6, 1, 1): weights, or the update, to 1e-4.
TORCHJD_ROWS = np.array([[-4., 1, 1], [6, 1, 1]])
TORCHJD_WEIGHTS = (
  ('aligned_mtl', (0.5591, 0.4083)),
  ('cagrad', (0.7041, 0.5)),
  ('dual_proj', (0.6109, 0.5)),
  # There of FairGrad(1), which is Nash-MTL without a limit.
  ('nash_mtl free', (0.5915, 0.4071)),
  ('gradvac', (2.2222, 1.5789)),
  ('imtl_g', (0.5923, 0.4077)),
  ('mgda', (0.6, 0.4)),
  ('pcgrad', (2.2222, 1.5789)),
  ('upgrad', (1.1109, 0.7894)),
)
TORCHJD_UPDATES = (
  ('aligned_mtl', (0.2133, 0.9673, 0.9673)),
  ('cagrad', (0.1835, 1.2041, 1.2041)),
  ('config', (0.1588, 2.0706, 2.0706)),
  ('dual_proj', (0.5563, 1.1109, 1.1109)),
  ('gradvac', (0.5848, 3.8012, 3.8012)),
  ('imtl_g', (0.0767, 1., 1.)),
  ('mgda', (0., 1., 1.)),
  ('nash_mtl', (0.0542, 0.7061, 0.7061)),
  ('pcgrad', (0.5848, 3.8012, 3.8012)),
  ('upgrad', (0.2929, 1.9004, 1.9004)),
)


def update(name, rows):
  return rows.T @ ref.weigh(name, rows @ rows.T).astype(float)


def assert_near(actual, expected, rtol, atol=0.):
  """Relative to the length of the vector, and absolutely."""
  error = np.linalg.norm(actual - expected)
  np.testing.assert_array_less(error, rtol * np.linalg.norm(expected) + atol)


class TorchJDTest(parameterized.TestCase):

  @parameterized.parameters(*TORCHJD_WEIGHTS)
  def test_weights(self, name, expected):
    weights = ref.weigh(name, TORCHJD_ROWS @ TORCHJD_ROWS.T)
    np.testing.assert_allclose(weights, expected, atol=1e-4, rtol=0)

  @parameterized.parameters(*TORCHJD_UPDATES)
  def test_updates(self, name, expected):
    np.testing.assert_allclose(
      update(name, TORCHJD_ROWS), expected, atol=1e-4, rtol=0)

  def test_two_projections_are_twice_upgrad(self):
    # TorchJD's test_equivalence_upgrad_sum_two_rows, to its tolerance.
    for seed in range(10):
      rows = np.random.default_rng(seed).normal(size=(2, 7))
      gram = rows @ rows.T
      np.testing.assert_allclose(
        ref.weigh('pcgrad', gram), 2 * ref.weigh('upgrad', gram),
        rtol=1e-3, atol=4e-4)


class DefinitionTest(parameterized.TestCase):

  @parameterized.parameters(*EACH)
  def test_pcgrad(self, n, kind):
    rows = ref.inputs(n)[kind]
    assert_near(update('pcgrad', rows), ref.pcgrad(rows), 5e-6)

  @parameterized.parameters(*EACH)
  def test_gradvac(self, n, kind):
    rows = ref.inputs(n)[kind]
    state, targets = None, np.zeros((n, n))
    # On one line φ is ±1, and √(1 − φ²) known to √ε only; elsewhere to ε.
    on_one_line = n > 1 and np.linalg.matrix_rank(rows) == 1
    atol = 3e-4 * np.linalg.norm(rows) if on_one_line else 0
    for scale in (1., -0.5, 2.):
      changed = rows + scale * rows[:1]
      # Cosines of one stay out: their limit is ours alone.
      targets = np.minimum(targets, 0.9)
      state = None if state is None else np.minimum(state, 0.9)
      w, state = ref.step('gradvac', changed @ changed.T, state=state)
      expected, targets = ref.gradvac(changed, targets)
      assert_near(changed.T @ w.astype(float), expected, 5e-4, atol)
      np.testing.assert_allclose(state, targets, atol=1e-4)

  @parameterized.parameters(*EACH)
  def test_upgrad(self, n, kind):
    rows = ref.inputs(n)[kind]
    assert_near(update('upgrad', rows), ref.upgrad(rows), 1e-5)

  @parameterized.parameters(*EACH)
  def test_dual_proj(self, n, kind):
    rows = ref.inputs(n)[kind]
    assert_near(update('dual_proj', rows), ref.dual_proj(rows), 1e-5)

  @parameterized.parameters(*EACH)
  def test_mgda(self, n, kind):
    rows = ref.inputs(n)[kind]
    w, best = ref.weigh('mgda', rows @ rows.T).astype(float), ref.mgda(rows)
    self.assertGreaterEqual(w.min(), 0)
    self.assertAlmostEqual(w.sum(), 1, places=5)
    assert_near(w @ rows, best @ rows, 5e-5)

  @parameterized.product(
    n=ref.SIZES, kind=KINDS, rule=(('cagrad', 0.5), ('cagrad 1.5', 1.5)))
  def test_cagrad(self, n, kind, rule):
    rows = ref.inputs(n)[kind]
    d, best = update(rule[0], rows), ref.cagrad(rows, rule[1])
    mean = rows.mean(0)
    self.assertAlmostEqual(
      np.linalg.norm(d - mean) / np.linalg.norm(mean), rule[1], places=4)
    scale = np.linalg.norm(mean) * np.linalg.norm(rows, axis=1).min()
    self.assertLess(abs((rows @ d).min() - (rows @ best).min()), 1e-4 * scale)
    assert_near(d, best, 2e-4)

  @parameterized.parameters(*EACH)
  def test_nash_mtl(self, n, kind):
    rows = ref.inputs(n)[kind]
    best = ref.nash_mtl(rows)
    np.testing.assert_allclose(best * (rows @ (best @ rows)), 1, 1e-6)
    w = ref.weigh('nash_mtl free', rows @ rows.T).astype(float)
    assert_near(w @ rows, best @ rows, 5e-5)
    np.testing.assert_allclose(w * (rows @ (w @ rows)), 1, 5e-4)
    unit = best @ rows / np.sqrt(n)
    assert_near(update('nash_mtl', rows), unit, 5e-5)

  @parameterized.parameters(*EACH)
  def test_imtl_g(self, n, kind):
    rows = ref.inputs(n)[kind]
    assert_near(update('imtl_g', rows), ref.imtl_g(rows), 1e-4)

  @parameterized.parameters(*EACH)
  def test_config(self, n, kind):
    rows = ref.inputs(n)[kind]
    assert_near(update('config', rows), ref.config(rows), 3e-4)

  @parameterized.product(n=ref.SIZES, kind=KINDS,
                         scale=('min', 'median', 'rmse'))
  def test_aligned_mtl(self, n, kind, scale):
    rows = ref.inputs(n)[kind]
    name = 'aligned_mtl' + ('' if scale == 'min' else f' {scale}')
    sigma = np.linalg.svd(rows, compute_uv=False)
    condition = (sigma[0] / sigma[sigma > 1e-5 * sigma[0]][-1])**2
    assert_near(update(name, rows), ref.aligned_mtl(rows, scale),
                1e-5 + 2e-7 * condition)


if __name__ == '__main__':
  absltest.main()
