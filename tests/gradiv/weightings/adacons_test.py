"""AdaCons, against its definition on the gradients, over several steps."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.inputs import EPS

step = jax.jit(lambda decay, gram, present, state: weightings.adacons(
  decay).step(gram, present, state, None))


def adacons(steps, decay):
  """Yield w_i ‖g_i‖, their error, and whether all α ≥ 0, of (x, present)."""
  m = m_error = None
  for x, present in steps:
    n, g, fractions = len(x), x[present], np.zeros(len(x))
    if not len(g):
      yield fractions, 0, True
      continue
    norms = np.linalg.norm(g, axis=1)
    alphas = g @ g.mean(0) / np.where(norms > 0, norms, 1)
    # A row of the Gram is summed, divided by p, and multiplied.
    error = (n + 4) * EPS * norms.mean()
    slots = np.linspace(0, 1, n)
    points = np.linspace(0, 1, len(g)) if len(g) > 1 else np.array([.5])
    order = np.argsort(alphas, kind='stable')
    new, smooth = np.interp(slots, points, alphas[order]), alphas.copy()
    if m is not None:
      for i, old in zip(order, np.interp(points, slots, m)):
        smooth[i] = decay * old + (1 - decay) * alphas[i]
      new = decay * m + (1 - decay) * new
      error = decay * m_error + (1 - decay) * error
    m, m_error, total = new, error, smooth.sum()
    if total > 0:
      fractions[present] = smooth / total * (norms > 0)
      bound = error * (1 + len(g) * np.abs(fractions).max()) / total
    else:
      fractions[present] = (norms > 0) / max((norms > 0).sum(), 1)
      bound = 4 * EPS
    # Whether Σ α is positive can be a matter of rounding.
    sure = abs(total) >= 2e-6 * np.abs(smooth).sum() + len(g) * error
    yield fractions, bound if sure else np.inf, sure and smooth.min() >= 0


class AdaConsTest(parameterized.TestCase):

  @parameterized.product(n=inputs.SIZES, decay=(0., .9))
  @pytest.mark.slow
  def test_definition(self, n, decay):
    for kind in inputs.KINDS:
      with self.subTest(kind):
        self._check_definition(kind, n, decay)

  def _check_definition(self, kind, n, decay):
    # Traced, so that one program does for all.
    decay, state = np.float32(decay), weightings.adacons(decay).init(n)
    given = np.random.default_rng(n).random((8, n)) < .7
    given[1::3], given[::5] = True, False
    steps = list(zip(inputs.several(kind, n, 8), given))
    undecided = 0
    # Coefficients may tie, and which then comes first is rounding.
    match = np.sort if kind in ('line', 'duplicates') else np.asarray
    for (x, present), (fractions, error, positive) in zip(
        steps, adacons(steps, float(decay))):
      x = np.where(present[:, None], x, 0)
      w, state = step(decay, inputs.gram_of(x), present, state)
      norms = np.linalg.norm(x, axis=1)
      undecided += np.isinf(error)
      if np.isfinite(error):
        np.testing.assert_allclose(
          match((w * norms)[present]), match(fractions[present]), 8 * EPS,
          error)
      if positive or kind == 'offset':
        self.assertLessEqual(np.linalg.norm(w @ x), 1 + n * EPS)
      self.assertFalse(np.asarray(w)[norms == 0].any())
    # On a line equally many may point either way.
    self.assertLessEqual(undecided, 4 if kind == 'line' else 0)

  @parameterized.parameters([[3., -3., 2., -2., 0]], [[40., -1., -2., -1., 0]])
  def test_directions_count_alike_if_none_prevails(self, x):
    got = rules.weigh('adacons', np.outer(x, x))
    np.testing.assert_allclose(got[:4], .25 / np.abs(x[:4]), 4 * EPS)
    self.assertEqual(got[4], 0)

  @parameterized.parameters(-.1, 1)
  def test_decay_is_a_fraction(self, decay):
    with self.assertRaisesRegex(ValueError, 'decay'):
      weightings.adacons(decay)


if __name__ == '__main__':
  absltest.main()
