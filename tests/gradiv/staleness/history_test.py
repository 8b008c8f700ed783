"""Past parameters, and two identities of delayed SGD, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from gradiv import staleness
from gradiv.staleness import history

RNG = np.random.default_rng(8)
INPUTS, TARGETS = RNG.normal(size=(10, 4)), RNG.normal(size=10)
START = RNG.normal(size=4)
STEPS = 30
BATCHES = RNG.integers(0, 10, (STEPS, 3))


def gradient(x, batch):
  """Of a problem that is neither linear nor convex."""
  inputs, targets = jnp.asarray(INPUTS)[batch], jnp.asarray(TARGETS)[batch]
  loss = lambda x: jnp.mean((jnp.tanh(inputs @ x) - targets)**2)
  return jax.grad(loss)(x)


def train(tx):
  """Parameters before each step, and states, of training on BATCHES."""
  def step(carry, batch):
    x, state = carry
    updates, state = tx.update(gradient(x, batch), state, x)
    return (optax.apply_updates(x, updates), state), (x, state)

  x = jnp.asarray(START)
  return jax.lax.scan(step, (x, tx.init(x)), jnp.asarray(BATCHES))[1]


def train_by_history(tx, tau):
  """The gradient of step t is taken when it is due, with its batch."""
  def step(carry, batch):
    x, state, past, t = carry
    past = history.push(past, {'x': x, 'batch': batch})
    then = history.read(past, tau)
    g = jnp.where(t >= tau, gradient(then['x'], then['batch']), 0)
    updates, state = tx.update(g, state, x)
    return (optax.apply_updates(x, updates), state, past, t + 1), x

  x, batches = jnp.asarray(START), jnp.asarray(BATCHES)
  past = history.init({'x': x, 'batch': batches[0]}, tau + 1)
  carry = x, tx.init(x), past, jnp.int32(0)
  return jax.lax.scan(step, carry, batches)[1]


class HistoryTest(parameterized.TestCase):

  def test_reads_what_was_pushed(self):
    versions = [{'x': jnp.float32(RNG.normal(size=3)), 'i': jnp.int32(v)}
                for v in range(7)]
    past = history.init(versions[0], 3)
    for latest, tree in enumerate(versions):
      if latest:
        past = jax.jit(history.push)(past, tree)
      for tau in range(3):
        expected = versions[max(latest - tau, 0)]
        for seen in (history.read(past, tau),
                     jax.jit(history.read)(past, jnp.int32(tau))):
          jax.tree.map(np.testing.assert_array_equal, seen, expected)
    self.assertEqual(past.rows['x'].shape, (3, 3))
    self.assertEqual(past.rows['i'].dtype, jnp.int32)

  def test_arguments(self):
    with self.assertRaisesRegex(ValueError, 'depth=0'):
      history.init(jnp.zeros(2), 0)
    for tau in (-1, 2):
      with self.assertRaisesRegex(ValueError, f'staleness={tau}'):
        history.read(history.init(jnp.zeros(2), 2), tau)


class IdentitiesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    jax.config.update('jax_enable_x64', True)
    self.addCleanup(jax.config.update, 'jax_enable_x64', False)

  @parameterized.parameters(0, 1, 3)
  def test_stored_gradients_are_those_of_stored_parameters(self, tau):
    sgd = optax.sgd(0.3, momentum=0.8)
    xs, _ = train(optax.chain(staleness.delay_updates(tau), sgd))
    again = train_by_history(sgd, tau)
    fresh, _ = train(sgd)
    np.testing.assert_allclose(xs, again, 1e-12, 1e-12)
    # And they are not those of a run without delay.
    self.assertEqual(bool(np.abs(xs - fresh).max() > 1e-3), tau > 0)

  def test_virtual_iterate(self):
    self.check_virtual(4)

  @pytest.mark.slow
  def test_virtual_iterate_of_one_step(self):
    self.check_virtual(1)

  def check_virtual(self, tau):
    # x_t − x̃_t = γ Σ of the gradients under way, x̃_{t+1} = x̃_t − γ g(x_t).
    rate = 0.3
    xs, states = train(optax.chain(
      staleness.delay_updates(tau), optax.sgd(rate)))
    gs = jax.vmap(gradient)(xs, jnp.asarray(BATCHES))
    due = (np.arange(STEPS) - tau) % (tau + 1)  # the row just handed on
    buffer = np.asarray(states[0].buffer[0])
    under_way = buffer.sum(1) - buffer[np.arange(STEPS), due]
    virtual = START - rate * np.cumsum(np.asarray(gs), 0)
    np.testing.assert_allclose(
      xs[1:] - virtual[:-1], rate * under_way[:-1], 1e-11, 1e-13)
    windows = [gs[max(t + 1 - tau, 0):t + 1].sum(0) for t in range(STEPS)]
    np.testing.assert_allclose(under_way, windows, 1e-11, 1e-13)


if __name__ == '__main__':
  absltest.main()
