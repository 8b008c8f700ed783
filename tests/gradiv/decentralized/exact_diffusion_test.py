"""Exact diffusion and EXTRA against the recursions of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from gradiv import decentralized
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized.runs import (
  EXACT,
  LAZY,
  OPTIMUM,
  RATE,
  START,
  N,
  W,
  assert_recursion,
  chain,
  gradient,
  train,
)

STEPS = 12


class RecursionTest(parameterized.TestCase):

  def test_exact_diffusion_is_d2(self):
    last, x = START, LAZY @ (START - RATE * gradient(START))
    for _ in range(STEPS - 1):
      last, x = x, LAZY @ (
        2 * x - last - RATE * (gradient(x) - gradient(last)))
    state = assert_recursion(EXACT[0][1](RATE), x, STEPS)
    np.testing.assert_allclose(
      state[-1].correction['a'].sum(0), 0, atol=1e-12)

  def test_extra(self):
    last, x = START, W @ START - RATE * gradient(START)
    for _ in range(STEPS - 1):
      last, x = x, (np.eye(N) + W) @ x - (np.eye(N) + W) / 2 @ last - RATE * (
        gradient(x) - gradient(last))
    assert_recursion(EXACT[1][1](RATE), x, STEPS)

  def test_d2_with_a_schedule(self):
    rates = 0.2 / (1 + np.arange(STEPS))
    last, x = START, LAZY @ (START - rates[0] * gradient(START))
    for t in range(1, STEPS):
      # Tang et al.'s form, with the movement in units of the last rate.
      last, x = x, LAZY @ (x - rates[t] * (
        (last - x) / rates[t - 1] + gradient(x) - gradient(last)))
    schedule = lambda count: 0.2 / (1 + count)
    assert_recursion(chain(schedule, decentralized.mix_by_exact_diffusion(
      LAZY, 'workers', schedule=schedule)), x, STEPS)

  def test_a_rate_that_falls_ends_at_the_optimum(self):
    schedule = optax.polynomial_schedule(0.2, 0.05, 1, 40)
    with helpers.double_precision():
      for last in (decentralized.mix_by_exact_diffusion(
                     LAZY, 'workers', schedule=schedule),
                   decentralized.mix_by_extra(W, 'workers', schedule=schedule)):
        x, _ = train(chain(schedule, last), 2000)
        np.testing.assert_allclose(
          x, np.broadcast_to(OPTIMUM, x.shape), 0, 1e-8)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (decentralized.mix_by_exact_diffusion, topology.ring(4),
     'mixing_matrix.*-0.333333.*topology.lazy'),
    (decentralized.mix_by_exact_diffusion, topology.exponential(8),
     'mixing_matrix'),
    (decentralized.mix_by_exact_diffusion, np.eye(3),
     'mixing_matrix.*connected'),
    (decentralized.mix_by_exact_diffusion, topology.one_peer_exponential(4),
     'mixing_matrix of shape'),
    (decentralized.mix_by_extra, np.eye(2), 'mixing_matrix.*connected'))
  def test_matrices_that_do_not_converge_are_refused(self, make, w, message):
    with self.assertRaisesRegex(ValueError, message):
      make(w, 'workers')

  def test_the_matrix_must_fit_the_axis(self):
    tx = decentralized.mix_by_extra(W, 'workers')
    with self.assertRaisesRegex(ValueError, r'mixing_matrix.*\[4, 4\]'):
      jax.vmap(lambda x: tx.update(x, tx.init(x), x)[0],
               axis_name='workers')(jnp.ones((4, 2)))


if __name__ == '__main__':
  absltest.main()
