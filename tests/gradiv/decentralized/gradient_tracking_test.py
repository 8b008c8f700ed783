"""Gradient tracking against its recursion, with matrices in turn."""

import numpy as np
import optax
from absl.testing import absltest

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology
from tests.gradiv.decentralized.runs import (
  DIGRAPH,
  RATE,
  START,
  N,
  W,
  assert_recursion,
  gradient,
)


class GradientTrackingTest(absltest.TestCase):

  def test_recursion_and_its_invariant(self):
    bank = topology.random_matching(N, 3, seed=6)
    x, y = START, gradient(START)
    for t in range(12):
      last, x = x, W @ x - RATE * y
      y = bank[t % 3] @ y + gradient(x) - gradient(last)
      np.testing.assert_allclose(y.mean(0), gradient(x).mean(0), atol=1e-12)
    state = assert_recursion(optax.chain(
      decentralized.mix_by_gradient_tracking(bank, 'workers'), optax.sgd(RATE),
      gradiv.mix_by_gossip(W, 'workers')), x, 12)
    # The same invariant in the state: the mean of W y − g is zero.
    np.testing.assert_allclose(
      state[0].offset['b'].mean(0), 0, atol=1e-12)

  def test_columns_must_sum_to_one(self):
    with self.assertRaisesRegex(ValueError, 'mixing_matrix'):
      decentralized.mix_by_gradient_tracking(DIGRAPH.T, 'workers')


if __name__ == '__main__':
  absltest.main()
