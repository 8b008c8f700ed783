"""The metrics in the state of the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, PartitionSpec as P

import gradiv
from gradiv import meshes
from tests import helpers
from tests.gradiv.diversity.tracked import PARAMS, gradients, run


class TrackMomentsTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  @pytest.mark.slow
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
    average = gradiv.read_moments(state).average
    np.testing.assert_allclose(
      average.sq_norm, weights @ signal / weights.sum(), 1e-4)
    np.testing.assert_allclose(
      average.variance, weights @ spread / weights.sum(), 1e-4)
    self.assertEqual(int(state.averages.count), 12)

  @pytest.mark.slow
  def test_each_group_and_the_whole_as_if_tracked_alone(self):
    grads = gradients(12, 8)
    track = lambda **kw: gradiv.track_moments(
      'workers', batch_size=4, decay=.9, **kw)
    read = lambda tx, grads, params=PARAMS: gradiv.read_moments(
      run(tx, grads, params=params)[0])
    reading = read(track(groups=gradiv.by_layer), grads)
    self.assertEqual(reading.names, ('dense', 'head'))
    rows = jax.tree.map(lambda *xs: np.stack(xs), *(
      read(track(), grads[name], PARAMS[name]) for name in reading.names))
    helpers.assert_close(
      reading._replace(whole=None, encoded_names=()), rows, 1e-4, 1e-6)
    helpers.assert_close(reading.whole, read(track(), grads), 1e-4, 1e-6)

  def test_groups_cost_a_handful_of_leaves_and_little_program(self):
    """However many layers: one array a statistic, one program for all."""
    size = {}
    for layers in (2, 12):
      params = {f'{i}': {'w': jnp.zeros((8, 8)), 'b': jnp.zeros(8)}
                for i in range(layers)}
      mean = gradiv.aggregate_by_mean('workers')
      track = gradiv.track_moments(
        'workers', batch_size=4, groups=gradiv.by_layer)
      state = track.init(params)
      self.assertLess(len(jax.tree.leaves(state)), 12)
      grads = jax.tree.map(lambda x: jnp.zeros((4, *x.shape)), params)

      def lines(tx):
        step = jax.vmap(lambda g, s: tx.update(g, s), (0, None), None,
                        axis_name='workers')
        text = jax.jit(step).lower(grads, tx.init(params)).as_text()
        return len(text.splitlines())

      size[layers] = np.array([lines(mean), lines(optax.chain(track, mean))])
    # By layer: the operations of the mean once more, which the compiler
    # shares, and hardly any else. A program for each would be ten times that.
    of_mean, of_both = size[12] - size[2]
    self.assertLess(of_both, 2.2 * of_mean)

  @parameterized.named_parameters(*helpers.ON_EACH)
  def test_a_step_that_is_not_finite_is_skipped_and_counted(
      self, backend, axis, workers):
    self.check_skipped(backend, axis, workers)

  @parameterized.named_parameters(*helpers.ON_THE_REST)
  @pytest.mark.slow
  def test_so_is_it_in_other_layouts(self, backend, axis, workers):
    self.check_skipped(backend, axis, workers)

  def check_skipped(self, backend, axis, workers):
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
    self.assertTrue(np.isnan(gradiv.read_moments(state).estimate.sq_norm))
    reading = gradiv.read_moments(state)
    self.assertTrue(np.isnan(gradiv.batch_size_bound(reading.estimate)))
    self.assertEqual(int(state.num_skipped), 0)
    self.assertFalse(bool(reading.interval.is_trusted))

  def test_behind_the_aggregation_is_an_error_where_types_show_it(self):
    tx = optax.chain(gradiv.aggregate_by_mean('workers'),
                     gradiv.track_moments('workers', batch_size=4))
    mesh = jax.make_mesh((8,), ('workers',), axis_types=(AxisType.Auto,))
    grads = jnp.ones((8, 3))
    message = "over axis 'workers'.*behind an aggregation.*put it before"
    with self.assertRaisesRegex(ValueError, message):
      jax.shard_map(
        lambda g: tx.update(g[0], tx.init(g[0]))[1], mesh=mesh,
        in_specs=P('workers'), out_specs=P(), check_vma=True)(grads)
    with self.assertRaisesRegex(ValueError, message):
      meshes.on_mesh(tx, mesh, 'workers').init(grads[0])

  def test_sum_reduced_loss_and_finite_set(self):
    grads = gradients(3, 8)
    average = lambda grads, **kw: gradiv.read_moments(run(
      gradiv.track_moments('workers', batch_size=4, **kw), grads)[0]).average
    summed = jax.tree.map(lambda g: 4 * g, grads)
    helpers.assert_close(average(summed, reduction='sum'), average(grads))
    finite = average(grads, num_examples=32)
    np.testing.assert_allclose(
      finite.variance, average(grads).variance * 31 / 32, 1e-6)

  @parameterized.parameters(
    (dict(batch_size=0), 'batch_size'),
    (dict(batch_size=4, decay=1.0), 'decay'),
    (dict(batch_size=4, level=95), 'level'),
    (dict(batch_size=4, reduction='none'), 'reduction'),
    (dict(batch_size=4, num_examples=0), 'num_examples'),
    (dict(batch_size=4, axis_name=''), 'axis_name'),
    (dict(axis_name=None, layout=gradiv.Layout()), 'axis_name'),
    (dict(layout=gradiv.Layout(mean_over='workers')), 'workers'),
  )
  def test_unusable_arguments_fail_at_construction(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.track_moments(**{'axis_name': 'workers', **kwargs})


if __name__ == '__main__':
  absltest.main()
