"""RelaySGD against the messages of the paper, edge by edge."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv import decentralized
from gradiv.decentralized import topology
from tests.gradiv.decentralized.runs import (
  RATE,
  START,
  N,
  W,
  assert_recursion,
  chain,
  gradient,
)


class RelayTest(parameterized.TestCase):

  @parameterized.parameters('chain', 'binary_tree', 'star')
  def test_recursion(self, name):
    tree = (topology.star(N) if name == 'star' else
            getattr(topology, name)(N)) * (1 - np.eye(N)) > 0
    edges = list(zip(*np.nonzero(tree)))
    x, messages, counts = START, dict.fromkeys(edges, 0.), dict.fromkeys(
      edges, 0)
    for _ in range(12):
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
    assert_recursion(chain(RATE, decentralized.mix_by_relay(tree, 'workers')),
      x, 12)

  @parameterized.parameters((W,), (np.ones((2, 3)),), (np.zeros((2, 2)),))
  def test_graphs_that_are_no_trees_are_refused(self, tree):
    with self.assertRaisesRegex(ValueError, 'tree'):
      decentralized.mix_by_relay(tree, 'w')

  def test_the_tree_must_fit_the_axis(self):
    tx = decentralized.mix_by_relay(np.zeros((1, 1)), 'workers')
    with self.assertRaisesRegex(ValueError, 'tree has 1 workers'):
      jax.vmap(lambda x: tx.update(x, tx.init(x), x)[0],
               axis_name='workers')(jnp.ones((4, 2)))


if __name__ == '__main__':
  absltest.main()
