"""The metrics in the state of the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import workers as workers_lib
from tests import helpers

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}
RNG = np.random.default_rng(3)


def gradients(steps, workers, dtype=np.float32):
  draw = lambda x: RNG.normal(0.5, 1, (workers, steps, *x.shape)).astype(dtype)
  return jax.tree.map(draw, PARAMS)


def run(tx, grads, axis='workers', backend='vmap', state=None, params=PARAMS):
  """Scan the updates of all steps inside the workers' program."""
  def fn(grads, state):
    def step(state, g):
      updates, state = tx.update(g, state)
      return state, updates
    return jax.lax.scan(step, state, grads)

  mapped = gradiv.map_workers(fn, axis, in_axes=(0, None), out_axes=(None, 0),
                              backend=backend)
  return mapped(grads, tx.init(params) if state is None else state)


class TrackMomentsTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_averages_what_each_step_estimates(self, backend, axis, workers):
    grads = gradients(12, workers)
    tx = gradiv.track_moments(axis, batch_size=4, decay=0.8)
    state, updates = run(tx, grads, axis, backend)
    helpers.assert_same(updates, grads)
    flat = np.concatenate([g.reshape(workers, 12, -1)
                           for g in jax.tree.leaves(grads)], -1)
    mean = flat.mean(0, dtype=np.float64)
    spread = np.sum((flat - mean)**2, (0, 2)) * 4 / (workers - 1)
    signal = np.sum(mean**2, 1) - spread / (4 * workers)
    weights = 0.8 ** np.arange(12)[::-1]
    np.testing.assert_allclose(
      state.estimate.sq_norm, weights @ signal / weights.sum(), 1e-4)
    np.testing.assert_allclose(
      state.estimate.variance, weights @ spread / weights.sum(), 1e-4)
    self.assertEqual(int(state.count), 12)

  def test_groups(self):
    grads = gradients(6, 8)
    plain, _ = run(gradiv.track_moments('workers', batch_size=4), grads)
    state, _ = run(gradiv.track_moments(
      'workers', batch_size=4, groups=gradiv.by_layer), grads)
    helpers.assert_close(state.estimate, plain.estimate, 1e-5)
    self.assertEqual(set(state.layers), {'dense', 'head'})
    for name, (estimate, interval) in state.layers.items():
      alone, _ = run(
        gradiv.track_moments('workers', batch_size=4), grads[name],
        params=PARAMS[name])
      helpers.assert_close(estimate, alone.estimate, 1e-5)
      helpers.assert_close(interval, alone.interval, 1e-4, 1e-6)

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_a_step_that_is_not_finite_is_skipped_and_counted(
      self, backend, axis, workers):
    grads = gradients(6, workers)
    bad = jax.tree.map(np.copy, grads)
    bad['head'][1, 2, 0] = np.nan   # one worker, one step
    bad['dense']['bias'][0, 4, 1] = np.inf
    keep = jax.tree.map(lambda g: np.delete(g, [2, 4], 1), grads)
    tx = gradiv.track_moments(axis, batch_size=4, decay=0.8)
    state, _ = run(tx, bad, axis, backend)
    reference, _ = run(tx, keep, axis, backend)
    self.assertEqual(int(state.num_skipped), 2)
    helpers.assert_close(
      state._replace(num_skipped=0), reference._replace(num_skipped=0), 1e-5,
      1e-6)

  def test_overflow_of_a_statistic_alone_is_skipped(self):
    grads = jax.tree.map(lambda g: np.float32(1e30) * g, gradients(3, 8))
    state, updates = run(gradiv.track_moments('workers', batch_size=4), grads)
    self.assertEqual(int(state.num_skipped), 3)
    helpers.assert_same(updates, grads)

  def test_one_worker_is_unavailable(self):
    tx = gradiv.track_moments('workers', batch_size=4)
    state, _ = run(tx, gradients(5, 1))
    self.assertTrue(np.isnan(state.estimate.sq_norm))
    self.assertTrue(np.isnan(gradiv.batch_size_bound(state.estimate)))
    self.assertEqual(int(state.num_skipped), 0)
    self.assertFalse(bool(state.interval.trusted))

  def test_reads_by_name_from_a_chain(self):
    tx = optax.chain(
      gradiv.track_moments('workers', batch_size=4, groups=gradiv.by_layer),
      gradiv.aggregate_by_mean('workers'), optax.adam(0.1))
    state, _ = run(tx, gradients(3, 8))
    self.assertIsInstance(optax.tree.get(state, 'estimate'), gradiv.Estimate)
    self.assertIsInstance(optax.tree.get(state, 'interval'), gradiv.Interval)

  def test_sum_reduced_loss_and_finite_set(self):
    grads = gradients(3, 8)
    state = lambda grads, **kw: run(
      gradiv.track_moments('workers', batch_size=4, **kw), grads)[0].estimate
    summed = jax.tree.map(lambda g: 4 * g, grads)
    helpers.assert_close(state(summed, reduction='sum'), state(grads))
    finite = state(grads, num_examples=32)
    np.testing.assert_allclose(
      finite.variance, state(grads).variance * 31 / 32, 1e-6)

  @parameterized.parameters(
    (dict(batch_size=0), 'batch_size=0'),
    (dict(batch_size=4, decay=1.0), 'decay=1.0'),
    (dict(batch_size=4, level=95), 'level=95'),
    (dict(batch_size=4, reduction='none'), "reduction='none'"),
    (dict(batch_size=4, num_examples=0), 'num_examples=0'),
    (dict(batch_size=4, axis_name=''), "axis_name=''"),
  )
  def test_bad_arguments_fail_at_construction(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.track_moments(**{'axis_name': 'workers', **kwargs})


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

  def test_64_workers_on_1_2_and_8_devices(self):
    reference = self.train('workers', 'vmap')
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count])
        helpers.assert_close(result, reference, 2e-4, 1e-5)

  def test_one_step_from_the_same_state(self):
    """To float32 rounding, with nothing grown over steps."""
    reference = self.train('workers', 'vmap', steps=1)
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count], steps=1)
        helpers.assert_close(result, reference, 2e-6, 1e-7)

  @parameterized.parameters(True, False)
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
