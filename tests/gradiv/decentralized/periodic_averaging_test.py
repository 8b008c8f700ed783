"""Local SGD, SlowMo and DiLoCo against the recursions of the papers."""

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import decentralized
from tests.gradiv.decentralized.runs import RATE, N, chain, gradient, train


class PeriodicAveragingTest(parameterized.TestCase):

  def test_each_step_is_synchronous_sgd(self):
    x = np.zeros((N, 3))
    for _ in range(10):
      x = np.broadcast_to((x - RATE * gradient(x)).mean(0), x.shape)
    for last in (gradiv.local_sgd(1, 'workers'), gradiv.diloco(
        1, 'workers', learning_rate=1.0, momentum=0.0)):
      seen, _ = train(chain(RATE, last), 10)
      np.testing.assert_allclose(seen, x, 1e-5, 1e-6)

  def reference(self, steps, period, outer):
    """Compute local SGD in NumPy, with ``outer(Δ) -> step``."""
    x = anchor = np.zeros((N, 3))
    for t in range(1, steps + 1):
      x = x - RATE * gradient(x)
      if t % period == 0:
        anchor = anchor - outer((anchor - x).mean(0))
        x = anchor
    return x

  def test_local_sgd(self):
    seen, _ = train(chain(RATE, gradiv.local_sgd(3, 'workers')), 11)
    np.testing.assert_allclose(
      seen, self.reference(11, 3, lambda delta: delta), 1e-5, 1e-6)

  def test_slow_momentum(self):
    u = np.zeros(3)

    def outer(delta):
      nonlocal u
      # Wang et al.: u ← β u + Δ/γ, x ← x − a γ u.
      u = 0.6 * u + delta / RATE
      return 0.9 * RATE * u

    seen, _ = train(chain(RATE, decentralized.mix_by_slow_momentum(
      3, 'workers', momentum=0.6, learning_rate=0.9)), 12)
    np.testing.assert_allclose(
      seen, self.reference(12, 3, outer), 1e-5, 1e-6)

  def test_diloco(self):
    trace = np.zeros(3)

    def outer(delta):
      nonlocal trace
      trace = 0.9 * trace + delta
      return 0.7 * (delta + 0.9 * trace)

    expected = self.reference(14, 4, outer)
    for backend in ('vmap', 'pmap', 'shard_map'):
      seen, state = train(
        chain(RATE, gradiv.diloco(4, 'workers')), 14, backend,
        devices=None if backend == 'vmap' else jax.devices()[:N])
      np.testing.assert_allclose(seen, expected, 1e-5, 1e-6)
      for leaf in jax.tree.leaves(state[-1].outer):
        np.testing.assert_array_equal(leaf, leaf[:1].repeat(N, 0))

  def test_one_worker_looks_ahead(self):
    # Zhang et al.'s Lookahead: k steps ahead, then a fraction of the way back.
    x = slow = np.zeros((1, 3))
    for t in range(1, 10):
      x = x - RATE * (x - 1)
      if t % 3 == 0:
        x = slow = slow + 0.5 * (x - slow)
    seen, _ = train(chain(RATE, decentralized.mix_by_outer_step(
      optax.sgd(0.5), 3, 'workers')), 9, centers=np.ones((1, 3)),
      curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)

  def test_several_axes(self):
    seen, _ = train(chain(RATE, gradiv.local_sgd(3, ('devices', 'virtual'))),
                    11, 'shard_map', ('devices', 'virtual'),
                    devices=jax.devices()[:2])
    np.testing.assert_allclose(
      seen, self.reference(11, 3, lambda delta: delta), 1e-5, 1e-6)

  def test_slow_momentum_of_one_worker(self):
    x = anchor = u = np.zeros((1, 3))
    for t in range(1, 10):
      x = x - RATE * (x - 1)
      if t % 3 == 0:
        u = 0.5 * u + anchor - x
        x = anchor = anchor - 0.8 * u
    seen, _ = train(chain(RATE, decentralized.mix_by_slow_momentum(
      3, 'workers', momentum=0.5, learning_rate=0.8)), 9,
      centers=np.ones((1, 3)), curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(seen, x, 1e-5)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.diloco(4, 'w', learning_rate=-3.0), 'learning_rate=-3.0'),
    (lambda: gradiv.diloco(4, 'w', learning_rate=float('nan')),
     'learning_rate=nan'),
    (lambda: gradiv.diloco(4, 'w', momentum=1.0), 'momentum=1.0'),
    (lambda: decentralized.mix_by_slow_momentum(4, 'w', momentum=-1),
     'momentum=-1'))
  def test_numbers_out_of_range_are_refused(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  def test_an_unknown_argument_is_pythons_own_error(self):
    with self.assertRaisesRegex(TypeError, "diloco.*'num_fragment'"):
      gradiv.diloco(8, 'workers', num_fragment=2)


if __name__ == '__main__':
  absltest.main()
