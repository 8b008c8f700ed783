"""CHOCO-SGD: its recursion, what it keeps, and what it reduces to."""

import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized import runs
from tests.gradiv.decentralized.runs import (
  RATE,
  START,
  W,
  assert_recursion,
  chain,
  gradient,
  train,
)


class ChocoTest(parameterized.TestCase):

  def test_recursion(self):
    x, public, step_size = START, 0 * START, 0.3
    for _ in range(12):
      x = x - RATE * gradient(x)
      for part in (slice(0, 1), slice(1, 3)):  # the leaves
        gap = (x - public)[:, part]
        kept = np.abs(gap) >= np.abs(gap).max(1, keepdims=True)
        public[:, part] += gap * kept
      x = x + step_size * (W @ public - public)
    assert_recursion(chain(RATE, decentralized.mix_by_choco(
      W, 'workers', gradiv.keep_top_k(0.5), consensus_step=step_size)), x, 12)

  def test_without_compression_it_is_atc(self):
    with helpers.double_precision():
      choco, _ = train(chain(RATE, decentralized.mix_by_choco(
        W, 'workers', optax.identity(), consensus_step=1.0)), 20, start=START)
      plain, _ = train(chain(RATE, gradiv.mix_by_gossip(
        W, 'workers', order='atc')), 20, start=START)
    np.testing.assert_allclose(choco, plain, 1e-10, 1e-12)

  @parameterized.named_parameters(
    ('top_k', lambda: gradiv.keep_top_k(0.25)),
    ('signs', gradiv.keep_signs),
    ('rounded', lambda: gradiv.quantize_updates(
      4, key=jax.random.key(0), axis_name='workers')))
  @pytest.mark.slow
  def test_keeps_the_mean_and_agrees(self, make):
    start = runs.RNG.normal(size=(8, 24))
    step_size = decentralized.tune_consensus_step(
      topology.ring(8), 'workers', make(),
      {'a': np.zeros(1, np.float32), 'b': np.zeros(23, np.float32)},
      key=jax.random.key(1), candidates=(1.0, 0.5, 0.25, 0.12, 0.06, 1e-3))
    self.assertGreater(step_size, 1e-3)
    tx = decentralized.mix_by_choco(topology.ring(8), 'workers', make(),
                             consensus_step=step_size)
    with helpers.double_precision():
      x, _ = train(tx, 600, start=start, centers=start, curvatures=np.zeros(
        (8, 1)))
    np.testing.assert_allclose(np.mean(x, 0), start.mean(0), 0, 1e-10)
    spread = lambda x: np.mean((x - np.mean(x, 0))**2)
    self.assertLess(spread(x), 1e-3 * spread(start))

  @parameterized.parameters(0.0, 1.5, float('nan'))
  def test_the_consensus_step_must_be_a_fraction(self, step_size):
    with self.assertRaisesRegex(ValueError, 'consensus_step'):
      decentralized.mix_by_choco(W, 'w', optax.identity(),
        consensus_step=step_size)


if __name__ == '__main__':
  absltest.main()
