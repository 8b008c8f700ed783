"""Noise of the right size samples at the temperature asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

KEY = jax.random.key(3)


class LangevinTest(parameterized.TestCase):

  def test_samples_at_its_temperature(self):
    self.check_temperature(0.5)

  @parameterized.parameters(1., 3.)
  @pytest.mark.slow
  def test_so_does_it_at_others(self, temperature):
    self.check_temperature(temperature)

  def check_temperature(self, temperature):
    """On ½ k x² the stationary variance is T/(k (1 − γk/2))."""
    rate, k = 0.1, 2.
    tx = optax.chain(
      gradiv.add_langevin_noise(
        gradiv.langevin_stddev(rate, temperature), key=KEY),
      optax.sgd(rate))

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(k * x, state)
      x = optax.apply_updates(x, updates)
      return (x, state), None

    start = jnp.zeros(20_000)
    (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=100)
    helpers.assert_mean(np.asarray(x)**2, temperature / (
      k * (1 - rate * k / 2)))

  def test_samples_with_momentum(self):
    """With the mass of momentum, T/(k (1 − γk/(2 + 2β)))."""
    rate, k, beta, temperature = 0.05, 2., 0.8, 1.5
    tx = optax.chain(
      gradiv.add_langevin_noise(gradiv.langevin_stddev(
        rate, temperature, momentum=beta), key=KEY),
      optax.sgd(rate, momentum=beta))

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(k * x, state)
      return (optax.apply_updates(x, updates), state), None

    start = jnp.zeros(20_000)
    (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=300)
    helpers.assert_mean(np.asarray(x)**2, temperature / (
      k * (1 - rate * k / (2 + 2 * beta))))

  def test_noise_of_the_workers_adds_up(self):
    one = gradiv.langevin_stddev(0.1, 2.)
    many = gradiv.langevin_stddev(0.1, 2., num_workers=9)
    self.assertAlmostEqual(many, 3 * one, 6)
    tx = optax.chain(
      gradiv.add_langevin_noise(many, key=KEY, axis_name='workers'),
      gradiv.aggregate_by_mean('workers'))
    zeros = jnp.zeros((9, 20_000))
    noise = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], zeros, tx.init(zeros[0]))
    helpers.assert_mean(np.asarray(noise)**2, one**2)

  def test_schedules(self):
    stddev = gradiv.langevin_stddev(lambda count: 0.5 / (1 + count))
    tx = gradiv.add_langevin_noise(stddev, key=KEY)
    state, found = tx.init(jnp.zeros(20_000)), []
    for _ in range(3):
      update, state = tx.update(jnp.zeros(20_000), state)
      found.append(float(update.std()))
    np.testing.assert_allclose(found, 2 * np.sqrt([1, 2, 3]), 0.03)

  @parameterized.parameters(
    (lambda: gradiv.add_langevin_noise(-1., key=KEY), 'stddev'),
    (lambda: gradiv.add_langevin_noise(float('nan'), key=KEY), 'stddev'),
    (lambda: gradiv.langevin_stddev(0.), 'learning_rate'),
    (lambda: gradiv.langevin_stddev(.1, -1.), 'temperature'),
    (lambda: gradiv.langevin_stddev(.1, momentum=1.), 'momentum'),
    (lambda: gradiv.langevin_stddev(.1, num_workers=0), 'num_workers'))
  def test_invalid_arguments(self, make, name):
    with self.assertRaisesRegex(ValueError, name):
      make()


if __name__ == '__main__':
  absltest.main()
