"""Moments of micro-steps equal those of as many workers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from tests import helpers

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}


def gradients(steps, mean=0.5, spread=1., seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(mean, spread, (steps, *x.shape)).astype(dtype),
    PARAMS)


def run(tx, grads, batch_sizes=None, params=PARAMS):
  """Scan over micro-steps: the last state, and every update."""
  def step(state, row):
    g, extra = row
    updates, state = tx.update(g, state, params, **extra)
    return state, updates

  extra = {} if batch_sizes is None else {'batch_size': batch_sizes}
  like = jax.tree.map(lambda x, g: x.astype(g.dtype), params, grads)
  return jax.jit(lambda s, rows: jax.lax.scan(step, s, rows))(
    tx.init(like), (grads, extra))


def of_workers(grads, batch_size=1):
  """The same gradients as those of workers: their moments and their mean."""
  def fn(row, _):
    g, b = row
    tx = gradiv.aggregate_by_mean('workers')
    return (gradiv.worker_moments(g, 'workers', batch_size=b),
            tx.update(g, tx.init(g))[0])

  n = len(jax.tree.leaves(grads)[0])
  return helpers.on_workers(
    fn, (grads, np.broadcast_to(np.float32(batch_size), n)))


class AccumulateMomentsTest(parameterized.TestCase):

  @parameterized.parameters(2, 5)
  def test_equals_as_many_workers(self, n):
    self.check_equals(n)

  @pytest.mark.slow
  def test_so_do_sixteen(self):
    self.check_equals(16)

  def check_equals(self, n):
    grads = gradients(n)
    state, updates = run(gradiv.accumulate_moments(n, batch_size=4), grads)
    moments, mean = of_workers(grads, 4)
    helpers.assert_close(state.moments, moments, 1e-5)
    helpers.assert_close(
      jax.tree.map(lambda x: x[-1], updates), mean, 1e-5, 1e-6)
    for x in jax.tree.leaves(updates):
      self.assertFalse(np.any(x[:-1]))

  def test_does_not_cancel(self):
    """Gradients that nearly agree, and gradients that cancel."""
    close = gradients(8, mean=1e4, spread=1e-2)
    state, _ = run(gradiv.accumulate_moments(8), close)
    wide = np.concatenate([np.asarray(x, np.float64).reshape(8, -1)
                           for x in jax.tree.leaves(close)], 1)
    np.testing.assert_allclose(
      state.moments.mean_sq_deviation, np.sum(wide.var(0)), 2e-2)
    half = gradients(1, mean=1e3)
    grads = jax.tree.map(lambda x: np.concatenate([x, -x]), half)
    state, _ = run(gradiv.accumulate_moments(2), grads)
    self.assertEqual(float(state.moments.sq_norm_of_mean), 0)

  def test_batch_sizes_of_the_micro_steps(self):
    grads, sizes = gradients(6), np.float32([1, 2, 3, 4, 5, 6])
    state, updates = run(gradiv.accumulate_moments(6), grads, sizes)
    helpers.assert_close(state.moments, of_workers(grads, sizes)[0], 1e-5)
    helpers.assert_close(
      jax.tree.map(lambda x: x[-1], updates),
      jax.tree.map(lambda x: np.average(x, 0, sizes), grads), 1e-5, 1e-6)

  def test_rounds_are_independent(self):
    grads = gradients(12)
    state, updates = run(gradiv.accumulate_moments(4), grads)
    last = jax.tree.map(lambda x: x[8:], grads)
    alone, of_last = run(gradiv.accumulate_moments(4), last)
    helpers.assert_same(state.moments, alone.moments)
    helpers.assert_same(jax.tree.map(lambda x: x[8:], updates), of_last)
    # In the middle of a round, that of the last one is still to be read.
    between, _ = run(gradiv.accumulate_moments(4),
                     jax.tree.map(lambda x: x[:6], grads))
    self.assertFalse(bool(between.ready))
    self.assertEqual(int(between.micro_step), 2)
    self.assertTrue(np.isfinite(between.moments.mean_sq_deviation))

  def test_not_finite_gradients_are_left_out_and_counted(self):
    grads = gradients(5)
    grads['head'][1, 2] = np.nan
    grads['dense']['bias'][4, 0] = np.inf
    state, updates = run(gradiv.accumulate_moments(5), grads)
    kept = jax.tree.map(lambda x: np.delete(x, [1, 4], 0), grads)
    moments, mean = of_workers(kept)
    self.assertEqual(int(state.num_left_out), 2)
    helpers.assert_close(state.moments, moments, 1e-5)
    helpers.assert_close(
      jax.tree.map(lambda x: x[-1], updates), mean, 1e-5, 1e-6)

  def test_nothing_is_known_where_all_are_left_out(self):
    grads = jax.tree.map(lambda x: x * np.nan, gradients(3))
    state, updates = run(gradiv.accumulate_moments(3), grads)
    self.assertTrue(np.all(np.isnan(jnp.stack(state.moments))))
    for x in jax.tree.leaves(updates):
      self.assertFalse(np.any(x))

  def test_bfloat16_is_summed_in_float32(self):
    grads = gradients(8, dtype=jnp.bfloat16)
    state, updates = run(gradiv.accumulate_moments(8), grads)
    helpers.assert_close(state.moments, of_workers(grads)[0], 1e-5)
    self.assertEqual({x.dtype for x in jax.tree.leaves(updates)},
                     {jnp.dtype(jnp.bfloat16)})

  @pytest.mark.slow
  def test_the_inner_transformation_runs_once_a_round(self):
    """Moments reach `track_moments`; momentum does not coast between."""
    inner = optax.chain(gradiv.track_moments(decay=.9),
                        optax.sgd(.1, momentum=.9))
    grads = gradients(12)
    state, updates = run(
      gradiv.accumulate_moments(4, inner, batch_size=2), grads)
    by_hand, estimates = inner.init(PARAMS), []
    for i in range(3):
      moments, mean = of_workers(
        jax.tree.map(lambda x: x[4 * i:4 * i + 4], grads), 2)
      update, by_hand = inner.update(mean, by_hand, moments=moments)
      estimates.append(gradiv.estimate(moments))
      helpers.assert_close(
        jax.tree.map(lambda x: x[4 * i + 3], updates), update, 1e-4, 1e-6)
    helpers.assert_close(gradiv.read_moments(state),
                         gradiv.read_moments(by_hand), 1e-3, 1e-5)
    self.assertEqual(int(gradiv.read_moments(state).window), 0)

  def test_without_inner_it_composes_by_hand(self):
    accumulate = gradiv.accumulate_moments(2)
    optimizer = gradiv.skip_zero_updates(optax.sgd(1., momentum=.9))
    tx = optax.chain(accumulate, optimizer)
    _, updates = run(tx, gradients(4))
    first = jax.tree.map(lambda x: x[2], updates)
    for x in jax.tree.leaves(first):
      self.assertFalse(np.any(x))

  @parameterized.parameters(False, True)
  def test_an_aggregation_inside_communicates_at_the_end(self, check_vma):
    """Micro-steps within each worker, the workers' mean after them."""
    n = 4
    grads = gradients(8 * n)
    rows = jax.tree.map(lambda x: x.reshape(8, n, *x.shape[1:]), grads)
    tx = gradiv.accumulate_moments(n, gradiv.aggregate_by_mean('workers'))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))

    def worker(rows):
      rows = jax.tree.map(lambda x: x[0], rows)
      state = tx.init(jax.tree.map(lambda x: x[0], rows))
      for i in range(n):
        updates, state = tx.update(
          jax.tree.map(lambda x, i=i: x[i], rows), state)
      return jax.tree.map(lambda x: x[None], updates)

    updates = jax.jit(jax.shard_map(
      worker, mesh=mesh, in_specs=(P('workers'),), out_specs=P('workers'),
      check_vma=check_vma))(rows)
    for x, g in zip(jax.tree.leaves(updates), jax.tree.leaves(grads)):
      np.testing.assert_allclose(
        x, np.broadcast_to(g.mean(0), x.shape), 1e-5, 1e-6)

  def test_a_donated_state_runs(self):
    tx = gradiv.accumulate_moments(
      3, optax.chain(gradiv.track_moments(), optax.adam(.1)))
    step = jax.jit(tx.update, donate_argnums=1)
    state = tx.init(PARAMS)
    for i in range(10):
      _, state = step(jax.tree.map(lambda x: x[i], gradients(10)), state)
    self.assertEqual(int(state.micro_step), 1)
    helpers.assert_same(optax.tree.map_params(tx, lambda x: x, state), state)

  @parameterized.parameters(
    (dict(num_micro_steps=0), 'num_micro_steps'),
    (dict(num_micro_steps=2, batch_size=0), 'batch_size'))
  def test_unusable_arguments_fail_at_construction(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.accumulate_moments(**kwargs)


if __name__ == '__main__':
  absltest.main()
