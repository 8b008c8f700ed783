"""Quasi-global momentum and DecentLaM against the papers' recursions."""

import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized.runs import (
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

  @parameterized.parameters(False, True)
  def test_quasi_global_momentum(self, nesterov):
    x, m, beta, decay = START, 0 * START, 0.8, 0.9
    for _ in range(STEPS):
      g = gradient(x)
      v = beta * m + g
      v = g + beta * v if nesterov else v
      mixed = W @ (x - RATE * v)
      m = decay * m + (1 - decay) * (x - mixed) / RATE
      x = mixed
    assert_recursion(chain(RATE, decentralized.mix_by_quasi_global_momentum(
      W, 'workers', momentum=beta, decay=decay, nesterov=nesterov)), x, STEPS)

  def test_quasi_global_momentum_of_one_worker(self):
    x, m, beta, decay = 0 * START[:1], 0 * START[:1], 0.8, 0.9
    for _ in range(9):
      u = beta * m + (x - 1)
      x, m = x - RATE * u, decay * m + (1 - decay) * u
    seen, _ = train(chain(RATE, decentralized.mix_by_quasi_global_momentum(
      np.ones((1, 1)), 'workers', momentum=beta, decay=decay)), 9,
      centers=np.ones((1, 3)), curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)

  def test_rates_that_change(self):
    # Momentum in units of gradients, as in the papers; matrices in turn.
    schedule = lambda count: 0.2 / (1 + count)
    bank = topology.random_matching(N, 3, seed=5)
    x, m, beta = START, 0 * START, 0.7
    for t in range(STEPS):
      rate, w = 0.2 / (1 + t), bank[t % 3]
      m = beta * m + (x - w @ (x - rate * gradient(x))) / rate
      x = x - rate * m
    assert_recursion(chain(schedule, decentralized.mix_by_decentlam(
      bank, 'workers', momentum=beta, schedule=schedule)), x, STEPS)
    x, m = START, 0 * START
    for t in range(STEPS):
      rate, w = 0.2 / (1 + t), bank[t % 3]
      mixed = w @ (x - rate * (beta * m + gradient(x)))
      m = beta * m + (1 - beta) * (x - mixed) / rate
      x = mixed
    assert_recursion(chain(schedule, decentralized.mix_by_quasi_global_momentum(
      bank, 'workers', momentum=beta, schedule=schedule)), x, STEPS)


class BiasTest(absltest.TestCase):

  def end(self, tx):
    with helpers.double_precision():
      return np.asarray(train(tx, 4000)[0])

  def test_decentlam_ends_as_sgd_and_own_momentum_does_not(self):
    bias = lambda x: np.linalg.norm(x - OPTIMUM)
    plain = self.end(chain(0.05, gradiv.mix_by_gossip(
      W, 'workers', order='atc')))
    lam = self.end(chain(0.05, decentralized.mix_by_decentlam(W, 'workers')))
    own = self.end(chain(0.05, gradiv.mix_by_gossip(
      W, 'workers', order='atc'), momentum=0.9))
    np.testing.assert_allclose(lam, plain, 0, 1e-8)
    self.assertGreater(bias(own), 2 * bias(plain))


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: decentralized.mix_by_quasi_global_momentum(W, 'w', momentum=1.0),
     'momentum=1.0'),
    (lambda: decentralized.mix_by_quasi_global_momentum(W, 'w', decay=1.0),
     'decay=1.0'),
    (lambda: decentralized.mix_by_decentlam(W, 'w', momentum=-0.1),
     'momentum=-0.1'))
  def test_fractions_out_of_range_are_refused(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()


if __name__ == '__main__':
  absltest.main()
