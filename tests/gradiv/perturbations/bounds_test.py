"""B_S under each mechanism: the closed forms, the paper's, and draws.

The paper is *Yin et al., `Gradient Diversity
<https://proceedings.mlr.press/v84/yin18a.html>`_, 2018*; its equations 10 to
12 are written out in A = Σ‖g_i‖² and C = Σ_{j≠k} ⟨g_j, g_k⟩.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv.perturbations import (
  drop_updates_batch_size_bound as dropped_bound,
  langevin_noise_batch_size_bound as noisy_bound,
  quantized_batch_size_bound as quantized_bound,
)

RNG = np.random.default_rng(12)
KEY = jax.random.key(4)
N, D = 12, 20
RATE, STDDEV = 0.4, 0.6
GRADS = RNG.normal(0.5, 1, (N, D))
A = np.sum(GRADS**2)
C = np.sum(GRADS.sum(0)**2) - A
EXACT = gradiv.Estimate(jnp.float32((A + C) / N**2),
                        jnp.float32(A / N - (A + C) / N**2))
PLAIN = N * A / (A + C)
Q = np.sum(np.linalg.norm(GRADS, axis=1) * np.abs(GRADS).sum(1))

MECHANISMS = {
  'drop': (lambda axis: gradiv.drop_updates(RATE, key=KEY, axis_name=axis),
           lambda draws: dropped_bound(
             EXACT, RATE, N, draws=draws)),
  'noise': (lambda axis: gradiv.add_langevin_noise(
    STDDEV, key=KEY, axis_name=axis),
    lambda draws: noisy_bound(
      EXACT, STDDEV, D, N, draws=draws)),
  'quantize': (lambda axis: gradiv.quantize_updates(
    1, key=KEY, axis_name=axis),
    lambda draws: quantized_bound(EXACT, Q / N, N, draws=draws)),
}


def bound_of(grads):
  """B_S of a set, in float64."""
  return len(grads) * np.sum(grads**2) / np.sum(grads.sum(0)**2)


class ClosedFormTest(parameterized.TestCase):

  def test_those_of_the_paper(self):
    p, noise = RATE, N * D * STDDEV**2
    # Cases 16, 22 and 26: equations 10, 11 and 12.
    expected = {
      'drop': N * (1 - p) * A / ((1 - p) * A + (1 - p)**2 * C),
      'noise': N * (A + noise) / (A + C + noise),
      'quantize': N * Q / (Q + C)}
    for name, value in expected.items():
      np.testing.assert_allclose(
        MECHANISMS[name][1]('tied'), value, 1e-5, err_msg=name)

  def test_fresh_and_shared(self):
    # Cases 18 and 19.
    square, signal = A / N, (A + C) / N**2
    added = D * STDDEV**2
    for name, draws, expected in (
        ('drop', 'fresh', PLAIN / (1 - RATE)),
        ('drop', 'shared', PLAIN),
        ('noise', 'fresh', (square + added) / signal),
        ('noise', 'shared', (square + added) / (signal + added)),
        ('quantize', 'fresh', Q / N / signal)):
      np.testing.assert_allclose(
        MECHANISMS[name][1](draws), expected, 1e-5, err_msg=(name, draws))

  def test_limits(self):
    # Case 16: from B_S at p = 0 to n at p = 1, where n is a fixed point.
    drop = lambda estimate, p: float(dropped_bound(
      estimate, p, N))
    self.assertAlmostEqual(drop(EXACT, 0.), PLAIN, 3)
    self.assertAlmostEqual(drop(EXACT, 0.999), N, 1)
    at_n = gradiv.Estimate(1., N - 1.)
    for p in (0., 0.3, 0.9):
      self.assertAlmostEqual(drop(at_n, p), N, 4)
    # Case 17: of equal gradients, n/(n(1 − p) + p).
    self.assertAlmostEqual(
      drop(gradiv.Estimate(1., 0.), 0.5), 2 * N / (N + 1), 5)
    # Case 22: n at a large σ; n (1 + M²/(dσ²)) at a stationary point.
    noise = lambda estimate, sigma: float(noisy_bound(
      estimate, sigma, D, N))
    self.assertAlmostEqual(noise(EXACT, 1e4), N, 2)
    self.assertAlmostEqual(
      noise(gradiv.Estimate(0., 3.), 2.), N * (1 + 3 / (D * 4)), 4)
    # Case 26: equal flat gradients, n√d/(√d + n − 1).
    flat = gradiv.Estimate(1., 0.)
    np.testing.assert_allclose(
      quantized_bound(flat, np.sqrt(D), N),
      N * np.sqrt(D) / (np.sqrt(D) + N - 1), 1e-5)

  def test_raises_the_bound_where_it_is_below_n(self):
    # Case 27, Theorem 7; above n it falls, and stays above n.
    below = gradiv.Estimate(1., 4.)
    above = gradiv.Estimate(1., 3. * N)
    for estimate in (below, above):
      square = float(estimate.sq_norm + estimate.variance)
      plain = square
      for new in (dropped_bound(estimate, 0.3, N),
                  noisy_bound(estimate, 0.2, D, N),
                  quantized_bound(estimate, 1.7 * square, N)):
        low, high = sorted((plain, N))
        self.assertGreater(float(new), low * (1 + 1e-4))
        self.assertLess(float(new), high * (1 - 1e-4))

  def test_rounds_do_not_get_fewer(self):
    # Case 44: steps at the bound go as M²/B_S, which masks raise.
    p, square = RATE, A / N
    dropped = dropped_bound(EXACT, p, N)
    ratio = (square / (1 - p) / dropped) / (square / PLAIN)
    np.testing.assert_allclose(ratio, 1 + p / (1 - p) * PLAIN / N, 1e-5)
    self.assertGreater(ratio, 1)

  def test_masks_on_a_linear_model(self):
    # Case 20: E‖Σ D_i a_i x_i‖² = (1 − p)A + (1 − p)²(‖Xᵀa‖² − A).
    x, a, p = RNG.normal(size=(N, D)), RNG.normal(size=N), RATE
    rows = a[:, None] * x
    square, total = np.sum(rows**2), np.sum((x.T @ a)**2)
    exact = gradiv.Estimate(
      jnp.float32(total / N**2), jnp.float32(square / N - total / N**2))
    np.testing.assert_allclose(
      dropped_bound(exact, p, N), N * (1 - p) * square / (
        (1 - p) * square + (1 - p)**2 * (total - square)), 1e-5)

  def test_draws_without_a_formula_are_refused(self):
    for fn, draws in ((dropped_bound, 'each'), (quantized_bound, 'shared')):
      with self.assertRaisesRegex(ValueError, 'draws'):
        fn(EXACT, 0.1, N, draws=draws)

  @parameterized.parameters(
    (lambda: dropped_bound(EXACT, 1., N), 'rate'),
    (lambda: dropped_bound(EXACT, np.array([.5, -.5]), N), 'rate'),
    (lambda: dropped_bound(EXACT, .5, 0), 'num_examples'),
    (lambda: noisy_bound(EXACT, -1., D, N), 'stddev'),
    (lambda: noisy_bound(EXACT, 1., 0, N), 'num_parameters'),
    (lambda: quantized_bound(EXACT, -1., N), 'sq_norm'))
  def test_numbers_out_of_range_are_refused(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()

  def test_numpy_arrays_of_strengths(self):
    rates = np.linspace(0, .5, 3)
    np.testing.assert_allclose(
      dropped_bound(EXACT, rates, N),
      [dropped_bound(EXACT, rate, N) for rate in rates], 1e-6)


class BatchTest(parameterized.TestCase):
  """What batches drawn with replacement show, on gradients that are fixed."""

  BATCH, STEPS = 8, 20_000

  def batches(self, make, draws):
    """Sums of squares and squared sums of noisy batches, in float64."""
    tx = make('examples' if draws == 'fresh' else None)
    grads = jnp.float32(GRADS)

    def step(state, rows):
      extra = (lambda i: {'example_index': i}) if draws == 'tied' else (
        lambda i: {})
      noisy, new = jax.vmap(
        lambda i: tx.update(grads[i], state, **extra(i)),
        out_axes=(0, None), axis_name='examples')(rows)
      return new, (jnp.sum(noisy**2), jnp.sum(noisy.sum(0)**2))

    rows = np.random.default_rng(3).integers(
      N, size=(self.STEPS, self.BATCH))
    _, seen = jax.jit(lambda s, r: jax.lax.scan(step, s, r))(
      tx.init(GRADS[0]), jnp.asarray(rows))
    return (np.asarray(x, np.float64) for x in seen)

  @parameterized.parameters(
    *((name, draws) for name in MECHANISMS for draws in ('tied', 'fresh')),
    ('drop', 'shared'), ('noise', 'shared'))
  @pytest.mark.slow
  def test_second_moment_of_a_batch(self, name, draws):
    """Lemma 1: E‖Σ_B g‖² = B M² (1 + (B − 1)/B_S)."""
    make, bound = MECHANISMS[name]
    squares, of_sums = self.batches(make, draws)
    factor = 1 + (self.BATCH - 1) / float(bound(draws))
    gap = of_sums - factor * squares  # of mean zero
    error = gap.std(ddof=1) / np.sqrt(self.STEPS)
    self.assertLess(abs(gap.mean()), 4 * error)
    # Small enough an error to tell this from the gradients as they are.
    if draws != 'shared' or name == 'noise':
      plain = 1 + (self.BATCH - 1) / PLAIN
      self.assertGreater(
        abs((of_sums - plain * squares).mean()), 8 * error)

  def test_noise_of_a_step(self):
    # Case 23: B draws add B γ² σ² to each coordinate's variance.
    step, size = 0.3, 6
    tx = gradiv.add_langevin_noise(STDDEV, key=KEY, axis_name='examples')
    zeros = jnp.zeros((size, 20_000))
    noise = jax.vmap(lambda g: tx.update(g, tx.init(g))[0],
                     axis_name='examples')(zeros)
    seen = np.asarray(step * noise.sum(0), np.float64)**2
    expected = size * step**2 * STDDEV**2
    self.assertLess(abs(seen.mean() - expected),
                    4 * seen.std(ddof=1) / np.sqrt(seen.size))

  @pytest.mark.slow
  def test_rescaling_changes_lengths_alone(self):
    # Case 21: mean ‖g‖² is (1 − p)M², or M²/(1 − p); B_S is the same.
    seen = {}
    for rescale in (False, True):
      make = lambda axis: gradiv.drop_updates(
        RATE, key=KEY, axis_name=axis, rescale=rescale)
      squares, of_sums = self.batches(make, 'fresh')
      seen[rescale] = squares.mean(), of_sums.mean()
    for short, long in zip(seen[False], seen[True]):
      np.testing.assert_allclose(long, short / (1 - RATE)**2, 1e-5)
    mean = seen[False][0] / self.BATCH
    np.testing.assert_allclose(mean, (1 - RATE) * A / N, 0.02)


if __name__ == '__main__':
  absltest.main()
