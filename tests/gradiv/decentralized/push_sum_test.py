"""Push-sum against its recursion, with directed matrices in turn."""

import numpy as np
from absl.testing import absltest

from gradiv import decentralized
from tests.gradiv.decentralized.runs import (
  DIGRAPH,
  RATE,
  START,
  N,
  assert_recursion,
  chain,
  gradient,
)


class PushSumTest(absltest.TestCase):

  def test_recursion(self):
    bank = np.stack([DIGRAPH, np.eye(N), DIGRAPH @ DIGRAPH])
    s, v = START, np.ones((N, 1))
    for t in range(12):
      a = bank[t % 3]
      s, v = a @ (s - RATE * gradient(s / v)), a @ v
    state = assert_recursion(chain(RATE, decentralized.mix_by_push_sum(
      bank, 'workers')), s / v, 12)
    self.assertGreater(np.ptp(state[-1].weight), 0.1)
    np.testing.assert_allclose(np.mean(state[-1].weight), 1)

  def test_weights_that_would_vanish_are_refused(self):
    for w in (np.eye(2)[::-1], [[.5, 0], [.5, 1]]):
      with self.assertRaisesRegex(ValueError, 'mixing_matrix'):
        decentralized.mix_by_push_sum(w, 'w')


if __name__ == '__main__':
  absltest.main()
