"""Decentralised optimizers against their textbook recursions, and the optimum.
"""

import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized import gossip_runs
from tests.gradiv.decentralized.gossip_runs import (
  DIGRAPH,
  EXACT,
  LAZY,
  RATE,
  START,
  N,
  W,
  chain,
  gradient,
  train,
)


class ExactTest(parameterized.TestCase):

  @parameterized.named_parameters(*EXACT)
  def test_reaches_the_optimum(self, make):
    with helpers.double_precision():
      x, _ = train(make(0.1), 1500)
    np.testing.assert_allclose(
      x, np.broadcast_to(gossip_runs.OPTIMUM, x.shape), 0, 1e-8)

  def test_decentralised_sgd_does_not(self):
    x, _ = train(chain(0.1, gradiv.mix_by_gossip(W, 'workers')), 1500)
    self.assertGreater(np.abs(x - gossip_runs.OPTIMUM).max(), 1e-2)

  def test_with_a_rate_that_falls(self):
    schedule = optax.polynomial_schedule(0.2, 0.05, 1, 40)
    with helpers.double_precision():
      for last in (gradiv.mix_by_exact_diffusion(
                     LAZY, 'workers', schedule=schedule),
                   gradiv.mix_by_extra(W, 'workers', schedule=schedule)):
        x, _ = train(chain(schedule, last), 2000)
        np.testing.assert_allclose(
          x, np.broadcast_to(gossip_runs.OPTIMUM, x.shape), 0, 1e-8)


class RecursionTest(parameterized.TestCase):
  """Twelve steps in NumPy, as the papers write them."""

  STEPS = 12

  def check(self, tx, expected):
    with helpers.double_precision():
      x, state = train(tx, self.STEPS, start=START)
    np.testing.assert_allclose(x, expected, 1e-10, 1e-10)
    return state

  def test_exact_diffusion_is_d2(self):
    last, x = START, LAZY @ (START - RATE * gradient(START))
    for _ in range(self.STEPS - 1):
      last, x = x, LAZY @ (
        2 * x - last - RATE * (gradient(x) - gradient(last)))
    state = self.check(EXACT[0][1](RATE), x)
    np.testing.assert_allclose(
      state[-1].correction['a'].sum(0), 0, atol=1e-12)

  def test_extra(self):
    last, x = START, W @ START - RATE * gradient(START)
    for _ in range(self.STEPS - 1):
      last, x = x, (np.eye(N) + W) @ x - (np.eye(N) + W) / 2 @ last - RATE * (
        gradient(x) - gradient(last))
    self.check(EXACT[1][1](RATE), x)

  def test_d2_with_a_schedule(self):
    rates = 0.2 / (1 + np.arange(self.STEPS))
    last, x = START, LAZY @ (START - rates[0] * gradient(START))
    for t in range(1, self.STEPS):
      # Tang et al.'s form, with what moved in units of the last rate.
      last, x = x, LAZY @ (x - rates[t] * (
        (last - x) / rates[t - 1] + gradient(x) - gradient(last)))
    schedule = lambda count: 0.2 / (1 + count)
    self.check(chain(schedule, gradiv.mix_by_exact_diffusion(
      LAZY, 'workers', schedule=schedule)), x)

  def test_gradient_tracking(self):
    bank = topology.random_matching(N, 3, seed=6)
    x, y = START, gradient(START)
    for t in range(self.STEPS):
      last, x = x, W @ x - RATE * y
      y = bank[t % 3] @ y + gradient(x) - gradient(last)
      np.testing.assert_allclose(y.mean(0), gradient(x).mean(0), atol=1e-12)
    state = self.check(optax.chain(
      gradiv.mix_by_gradient_tracking(bank, 'workers'), optax.sgd(RATE),
      gradiv.mix_by_gossip(W, 'workers')), x)
    # The invariant in our state: the mean of W y − g is zero.
    np.testing.assert_allclose(
      state[0].offset['b'].mean(0), 0, atol=1e-12)

  @parameterized.parameters(False, True)
  def test_quasi_global_momentum(self, nesterov):
    x, m, beta, share = START, 0 * START, 0.8, 0.1
    for _ in range(self.STEPS):
      g = gradient(x)
      v = beta * m + g
      v = g + beta * v if nesterov else v
      mixed = W @ (x - RATE * v)
      m = (1 - share) * m + share * (x - mixed) / RATE
      x = mixed
    self.check(chain(RATE, gradiv.mix_by_quasi_global_momentum(
      W, 'workers', momentum=beta, share=share, nesterov=nesterov)), x)

  def test_rates_that_change(self):
    # Momentum in units of gradients, as in the papers; matrices in turn.
    schedule = lambda count: 0.2 / (1 + count)
    bank = topology.random_matching(N, 3, seed=5)
    x, m, beta = START, 0 * START, 0.7
    for t in range(self.STEPS):
      rate, w = 0.2 / (1 + t), bank[t % 3]
      m = beta * m + (x - w @ (x - rate * gradient(x))) / rate
      x = x - rate * m
    self.check(chain(schedule, gradiv.mix_by_decentlam(
      bank, 'workers', momentum=beta, schedule=schedule)), x)
    x, m = START, 0 * START
    for t in range(self.STEPS):
      rate, w = 0.2 / (1 + t), bank[t % 3]
      mixed = w @ (x - rate * (beta * m + gradient(x)))
      m = beta * m + (1 - beta) * (x - mixed) / rate
      x = mixed
    self.check(chain(schedule, gradiv.mix_by_quasi_global_momentum(
      bank, 'workers', momentum=beta, schedule=schedule)), x)

  def test_push_sum(self):
    bank = np.stack([DIGRAPH, np.eye(N), DIGRAPH @ DIGRAPH])
    s, v = START, np.ones((N, 1))
    for t in range(self.STEPS):
      a = bank[t % 3]
      s, v = a @ (s - RATE * gradient(s / v)), a @ v
    state = self.check(chain(RATE, gradiv.mix_by_push_sum(
      bank, 'workers')), s / v)
    self.assertGreater(np.ptp(state[-1].weight), 0.1)
    np.testing.assert_allclose(np.mean(state[-1].weight), 1)

  @parameterized.parameters('chain', 'binary_tree', 'star')
  def test_relay(self, name):
    tree = (topology.star(N) if name == 'star' else
            getattr(topology, name)(N)) * (1 - np.eye(N)) > 0
    edges = list(zip(*np.nonzero(tree)))
    x, messages, counts = START, dict.fromkeys(edges, 0.), dict.fromkeys(
      edges, 0)
    for _ in range(self.STEPS):
      half = x - RATE * gradient(x)
      others = lambda table, i, j: sum(
        table[k, i] for k in range(N) if tree[k, i] and k != j)
      messages, counts = (
        {(i, j): half[i] + others(messages, i, j) for i, j in edges},
        {(i, j): 1 + others(counts, i, j) for i, j in edges})
      inbox = lambda table, i: sum(
        table[k, i] for k in range(N) if tree[k, i])
      x = np.stack([(half[i] + inbox(messages, i) + (
        N - 1 - inbox(counts, i)) * START[0]) / N for i in range(N)])
    self.check(chain(RATE, gradiv.mix_by_relay(tree, 'workers')), x)

  def test_choco(self):
    x, public, step_size = START, 0 * START, 0.3
    for _ in range(self.STEPS):
      x = x - RATE * gradient(x)
      for part in (slice(0, 1), slice(1, 3)):  # the leaves
        gap = (x - public)[:, part]
        kept = np.abs(gap) >= np.abs(gap).max(1, keepdims=True)
        public[:, part] += gap * kept
      x = x + step_size * (W @ public - public)
    self.check(chain(RATE, gradiv.mix_by_choco(
      W, 'workers', gradiv.keep_top_k(0.5), consensus_step=step_size)), x)


class BiasTest(parameterized.TestCase):
  """Where heterogeneous workers end."""

  def end(self, tx):
    with helpers.double_precision():
      return np.asarray(train(tx, 4000)[0])

  def test_decentlam_ends_as_sgd_and_own_momentum_does_not(self):
    bias = lambda x: np.linalg.norm(x - gossip_runs.OPTIMUM)
    plain = self.end(chain(0.05, gradiv.mix_by_gossip(
      W, 'workers', order='atc')))
    lam = self.end(chain(0.05, gradiv.mix_by_decentlam(W, 'workers')))
    own = self.end(chain(0.05, gradiv.mix_by_gossip(
      W, 'workers', order='atc'), momentum=0.9))
    np.testing.assert_allclose(lam, plain, 0, 1e-8)
    self.assertGreater(bias(own), 2 * bias(plain))


class OneWorkerTest(parameterized.TestCase):

  @parameterized.named_parameters(
    ('exact_diffusion', gradiv.mix_by_exact_diffusion),
    ('extra', gradiv.mix_by_extra), ('push_sum', gradiv.mix_by_push_sum),
    ('decentlam', lambda w, axis: gradiv.mix_by_decentlam(
      w, axis, momentum=0.0)),
    ('quasi_global', lambda w, axis: gradiv.mix_by_quasi_global_momentum(
      w, axis, momentum=0.0)),
    ('choco', lambda w, axis: gradiv.mix_by_choco(
      w, axis, gradiv.keep_top_k(0.1), consensus_step=0.5)),
    ('relay', lambda w, axis: gradiv.mix_by_relay(w, axis)),
    ('local_sgd', lambda w, axis: gradiv.local_sgd(3, axis)),
    ('tracking', lambda w, axis: optax.chain(
      gradiv.mix_by_gradient_tracking(w, axis), gradiv.mix_by_gossip(w, axis))))
  def test_is_sgd(self, make):
    centres, curvatures = gossip_runs.CENTRES[:1], np.ones((1, 1))
    x, _ = train(chain(RATE, make(np.ones((1, 1)), 'workers')), 7,
                 centres=centres, curvatures=curvatures)
    np.testing.assert_allclose(x, centres * (1 - (1 - RATE)**7), 1e-5)

  def test_slow_momentum(self):
    x = anchor = u = np.zeros((1, 3))
    for t in range(1, 10):
      x = x - RATE * (x - 1)
      if t % 3 == 0:
        u = 0.5 * u + anchor - x
        x = anchor = anchor - 0.8 * u
    seen, _ = train(chain(RATE, gradiv.mix_by_slow_momentum(
      3, 'workers', momentum=0.5, learning_rate=0.8)), 9,
      centres=np.ones((1, 3)), curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)

  def test_quasi_global_momentum(self):
    x, m, beta, share = 0 * START[:1], 0 * START[:1], 0.8, 0.1
    for _ in range(9):
      u = beta * m + (x - 1)
      x, m = x - RATE * u, (1 - share) * m + share * u
    seen, _ = train(chain(RATE, gradiv.mix_by_quasi_global_momentum(
      np.ones((1, 1)), 'workers', momentum=beta, share=share)), 9,
      centres=np.ones((1, 3)), curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)


if __name__ == '__main__':
  absltest.main()
