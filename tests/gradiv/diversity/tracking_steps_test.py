"""Tracking in loops and in whole training steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import workers as workers_lib
from tests import helpers
from tests.gradiv.diversity.tracked import PARAMS, gradients, run


class LoopTest(parameterized.TestCase):
  """In the loops that people write."""

  @parameterized.parameters(None, gradiv.by_layer)
  @pytest.mark.slow
  def test_donated_and_injected(self, groups):
    """Numbers may be injected; no two leaves share a buffer."""
    tx = optax.inject_hyperparams(
      gradiv.track_moments, static_args=('groups',))(
        'workers', batch_size=optax.linear_schedule(2, 8, 3),
        decay=.95, level=.95, num_examples=1000, groups=groups)
    step = jax.jit(jax.vmap(
      lambda g, s: tx.update(g, s)[1], (0, None), None, axis_name='workers'),
      donate_argnums=1)
    state = tx.init(PARAMS)
    for _ in range(4):
      state = step(jax.tree.map(lambda x: x[:, 0], gradients(1, 8)), state)
    reading = gradiv.read_moments(state)
    self.assertTrue(np.all(np.isfinite(reading.average.variance)))
    self.assertEqual(float(state.inner_state.level), np.float32(.95))

  def test_injected_numbers_act_as_given_ones(self):
    grads = gradients(6, 8)
    plain = gradiv.track_moments(
      'workers', batch_size=4, decay=.9, level=.8, num_examples=99)
    injected = optax.inject_hyperparams(gradiv.track_moments)(
      'workers', batch_size=4, decay=.9, level=.8, num_examples=99)
    expected, found = (gradiv.read_moments(run(tx, grads)[0])
                       for tx in (plain, injected))
    helpers.assert_close(found, expected, 2e-5, 1e-6)

  def test_maps_over_parameters_and_over_shapes(self):
    for groups in (None, gradiv.by_layer):
      tx = gradiv.track_moments('workers', batch_size=4, groups=groups)
      state = tx.init(PARAMS)
      helpers.assert_same(
        optax.tree.map_params(tx, lambda x: x, state), state)
      shapes = jax.eval_shape(tx.init, PARAMS)
      templates = tx.init(jax.eval_shape(lambda: PARAMS))
      for tree in (shapes, templates):
        self.assertEqual(jax.tree.map(jnp.shape, tree),
                         jax.tree.map(jnp.shape, state))

  def test_a_run_resumed_is_the_same_bit_by_bit(self):
    grads = gradients(40, 4)
    tx = gradiv.track_moments(
      'workers', batch_size=2, groups=gradiv.by_layer)
    whole, _ = run(tx, grads)
    half, _ = run(tx, jax.tree.map(lambda g: g[:, :17], grads))
    kept = jax.tree.map(np.asarray, half)
    resumed, _ = run(tx, jax.tree.map(lambda g: g[:, 17:], grads),
                     state=jax.tree.map(jnp.asarray, kept))
    helpers.assert_same(resumed, whole)


class WholeStepTest(parameterized.TestCase):
  """A chain that reads in the order in which the data flows."""

  def train(self, axis, backend, devices=None, workers=64, steps=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(workers, steps, 4, 6)).astype(np.float32)
    params = {'w': jnp.linspace(-1, 1, 6), 'b': jnp.float32(0)}
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p['w'] + p['b'])**2)
    tx = optax.chain(gradiv.track_moments(axis, batch_size=4, decay=0.9),
                     gradiv.aggregate_by_mean(axis),
                     optax.sgd(0.1, momentum=0.9))

    def fn(x, carry):
      def step(carry, x):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None
      return jax.lax.scan(step, carry, x)[0]

    return helpers.on_workers(
      fn, x, (params, tx.init(params)), axis, backend, devices=devices)

  @pytest.mark.slow
  def test_64_workers_on_1_2_and_8_devices(self):
    reference = self.train('workers', 'vmap')
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count])
        helpers.assert_close(result, reference, 2e-4, 1e-5)

  @pytest.mark.slow
  def test_one_step_from_the_same_state(self):
    """To float32 rounding, with nothing grown over steps."""
    reference = self.train('workers', 'vmap', steps=1)
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count], steps=1)
        helpers.assert_close(result, reference, 2e-6, 1e-7)

  @parameterized.parameters(True, False)
  @pytest.mark.slow
  def test_inside_the_users_shard_map(self, check_vma):
    """The state and the update come out typed common: out_specs=P()."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4, 6)).astype(np.float32)
    params = {'w': jnp.linspace(-1, 1, 6)}
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p['w'])**2)
    tx = optax.chain(
      gradiv.track_moments('workers', batch_size=4, groups=gradiv.by_layer),
      gradiv.aggregate_by_mean('workers'), optax.adam(0.1))

    def step(private, x, params, state):
      own = gradiv.as_private(params, 'workers') if private else params
      return tx.update(jax.grad(loss)(own, x), state, params)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))

    def mapped(private):
      return jax.jit(jax.shard_map(
        lambda x, p, s: step(private, x[0], p, s), mesh=mesh,
        in_specs=(P('workers'), P(), P()), out_specs=P(),
        check_vma=check_vma))(x, params, tx.init(params))

    reference = jax.vmap(
      lambda x: step(False, x, params, tx.init(params)), axis_name='workers',
      out_axes=None)(x)
    helpers.assert_close(mapped(True), reference, 1e-5, 1e-6)
    if check_vma:  # undone, the trap is an error and not a number
      with self.assertRaisesRegex(ValueError, 'already reduced'):
        mapped(False)

  @parameterized.parameters(*workers_lib.BACKENDS)
  def test_workers_equal_one_big_batch(self, backend):
    """Mean and sgd over n workers is sgd on the joined batch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 20, 4, 6)).astype(np.float32)
    w = jnp.linspace(-1, 1, 6)
    loss = lambda w, x: jnp.mean((x @ w)**2)
    tx = optax.chain(gradiv.aggregate_by_mean('workers'), optax.sgd(0.05))

    def descend(grads_of, tx, x):
      def step(carry, x):
        w, s = carry
        updates, s = tx.update(jax.grad(grads_of)(w, x), s)
        return (w + updates, s), None
      return jax.lax.scan(step, (w, tx.init(w)), x)[0][0]

    result = helpers.on_workers(
      lambda x, _: descend(loss, tx, x), x, backend=backend)
    joined = x.transpose(1, 0, 2, 3).reshape(20, 32, 6)
    np.testing.assert_allclose(
      result, descend(loss, optax.sgd(0.05), joined), 1e-5)


if __name__ == '__main__':
  absltest.main()
