"""pSGLD: preconditioned gradients with noise to match."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from gradiv import perturbations
from tests import helpers

KEY = jax.random.key(3)


class PreconditionLangevinTest(parameterized.TestCase):

  def test_mean_and_variance(self):
    g, alpha, eps, sigma = jnp.float32([3., -0.5]), 0.9, 0.1, 0.7
    tx = perturbations.precondition_langevin(sigma, key=KEY, decay=alpha,
      eps=eps)
    state, nu = tx.init(g), np.zeros(2)
    many = lambda x: jnp.broadcast_to(x, (20_000, 2))
    wide = tx.init(many(g))
    for _ in range(2):
      update, wide = tx.update(many(g), wide)
      nu = alpha * nu + (1 - alpha) * np.asarray(g)**2
      scale = 1 / (np.sqrt(nu) + eps)
      helpers.assert_mean(update, scale * np.asarray(g))
      helpers.assert_mean(
        (np.asarray(update) - scale * np.asarray(g))**2, sigma**2 * scale)
    _, state = tx.update(g, state)
    self.assertEqual(state.count, 1)

  def test_decay_and_eps_may_be_injected(self):
    g = jnp.float32([3., -0.5])
    options = dict(stddev=0.2, key=KEY, decay=0.9, eps=0.1)
    plain = perturbations.precondition_langevin(**options)
    injected = optax.inject_hyperparams(perturbations.precondition_langevin)(
      **options)
    states = [plain.init(g), injected.init(g)]
    for _ in range(2):
      updates = [None, None]
      for i, tx in enumerate((plain, injected)):
        updates[i], states[i] = jax.jit(tx.update)(g, states[i])
      np.testing.assert_allclose(*updates, 1e-5)

  def test_averages_are_laid_out_like_the_parameters(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(
      jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('model'))
    params = jax.device_put(jnp.ones((16, 2)), sharding)
    state = perturbations.precondition_langevin(0.1, key=KEY).init(params)
    self.assertEqual(state.nu.sharding, sharding)

  @parameterized.parameters(
    (dict(stddev=-1.), 'stddev'), (dict(eps=0.), 'eps'),
    (dict(decay=1.), 'decay'))
  def test_invalid_arguments(self, options, name):
    options = dict(stddev=1., key=KEY) | options
    with self.assertRaisesRegex(ValueError, name):
      perturbations.precondition_langevin(**options)


if __name__ == '__main__':
  absltest.main()
