"""PCGrad and GradVac, against loops over the gradients themselves."""

import functools

import jax
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import gradient_surgery
from tests.gradiv.weightings import inputs, rules


@functools.cache
def orders(n):
  draw = jax.jit(gradient_surgery._orders, static_argnums=1)
  return np.asarray(draw(rules.KEY, n))


def pcgrad(rows):
  total = 0
  for i, order in enumerate(orders(len(rows))):
    p = rows[i].copy()
    for j in order:
      if j != i and p @ rows[j] < 0:
        p -= p @ rows[j] / (rows[j] @ rows[j]) * rows[j]
    total = total + p
  return total


def gradvac(rows, targets, decay=0.5):
  """Return the update and the next targets."""
  total, targets = 0, targets.copy()
  for i, order in enumerate(orders(len(rows))):
    p = rows[i].copy()
    for j in order:
      if j == i:
        continue
      length, other = np.linalg.norm(p), np.linalg.norm(rows[j])
      phi, target = p @ rows[j] / (length * other), targets[i, j]
      if phi < target:
        sine = np.sqrt(1 - target**2)
        p = p + rows[j] * length * (
          target * np.sqrt(max(1 - phi**2, 0)) - phi * sine) / (other * sine)
      targets[i, j] = decay * target + (1 - decay) * phi
    total = total + p
  return total, targets


def cosines(rows, d):
  lengths = np.linalg.norm(rows, axis=1) * max(np.linalg.norm(d), 1e-30)
  return rows @ d / lengths


class GradientSurgeryTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_pcgrad_is_the_loop(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        expected = pcgrad(rows)
        np.testing.assert_array_less(
          np.linalg.norm(rules.update('pcgrad', rows) - expected),
          5e-6 * np.linalg.norm(expected) + 1e-30)

  @parameterized.parameters(*inputs.SIZES)
  def test_gradvac_is_the_loop_over_steps(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        state, targets = None, np.zeros((n, n))
        # On one line φ is ±1, and √(1 − φ²) known to √ε only.
        on_one_line = n > 1 and np.linalg.matrix_rank(rows) == 1
        atol = 3e-4 * np.linalg.norm(rows) if on_one_line else 0
        for scale in (1., -0.5, 2.):
          changed = rows + scale * rows[:1]
          # Cosines of one stay out, because their limit is ours alone.
          targets = np.minimum(targets, 0.9)
          state = None if state is None else np.minimum(state, 0.9)
          w, state = rules.step('gradvac', changed @ changed.T, state=state)
          expected, targets = gradvac(changed, targets)
          np.testing.assert_array_less(
            np.linalg.norm(changed.T @ w.astype(float) - expected),
            5e-4 * np.linalg.norm(expected) + atol)
          np.testing.assert_allclose(state, targets, atol=1e-4)

  @parameterized.parameters(2, 5)
  def test_without_conflict_they_add_up(self, n):
    for kind in inputs.LOSS_KINDS:
      rows = np.abs(inputs.losses(kind, n))
      for name in rules.RANDOM:
        np.testing.assert_array_equal(
          rules.weigh(name, rows @ rows.T), np.ones(n))

  @parameterized.parameters(*inputs.SOLVABLE)
  def test_two_that_conflict_do_so_no_longer(self, kind):
    rows = inputs.losses(kind, 2)
    rows[1] -= 1.2 * (rows[1] @ rows[0]) / (rows[0] @ rows[0]) * rows[0]
    self.assertGreater(
      cosines(rows, rules.update('pcgrad', rows)).min(), -1e-5)

  def test_two_projections_are_twice_upgrad(self):
    # TorchJD's test_equivalence_upgrad_sum_two_rows, to its tolerance.
    for seed in range(10):
      rows = np.random.default_rng(seed).normal(size=(2, 7))
      gram = rows @ rows.T
      np.testing.assert_allclose(
        rules.weigh('pcgrad', gram), 2 * rules.weigh('upgrad', gram),
        rtol=1e-3, atol=4e-4)

  def test_gradvac_starts_as_pcgrad_and_aims_higher_later(self):
    rows = inputs.losses('conflicting', 5)
    first, state = rules.step('gradvac', rows @ rows.T)
    np.testing.assert_allclose(
      first, rules.weigh('pcgrad', rows @ rows.T), 1e-4)
    aligned = inputs.losses('aligned', 5)
    for _ in range(8):
      _, state = rules.step('gradvac', aligned @ aligned.T, state=state)
    later, _ = rules.step('gradvac', rows @ rows.T, state=state)
    mean_gain = lambda w: cosines(rows, w @ rows).mean()
    self.assertGreater(mean_gain(later), mean_gain(first))

  @parameterized.parameters(
    (lambda: gradient_surgery.pcgrad(reduction='max'), 'reduction'),
    (lambda: gradient_surgery.gradvac(reduction='max'), 'reduction'),
    (lambda: gradient_surgery.gradvac(decay=1.5), 'decay'))
  def test_bad_arguments_are_named(self, call, argument):
    with self.assertRaisesRegex(ValueError, argument):
      call()


if __name__ == '__main__':
  absltest.main()
