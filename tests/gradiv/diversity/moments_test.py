"""Moments of workers' gradients, against float64 NumPy on every backend."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv._common import early_sums
from tests import helpers

RNG = np.random.default_rng(1)


def naive(grads, batches=1):
  """The same in float64, from the stacked gradients."""
  g = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1)
                      for x in jax.tree.leaves(grads)], 1)
  b = np.broadcast_to(np.asarray(batches, np.float64), len(g))
  mean = b @ g / b.sum()
  deviation = b @ np.sum((g - mean)**2, 1) / b.sum()
  return gradiv.Moments(float(len(g)), b.mean(), np.sum(mean**2), deviation)


def sample(workers, scale=1.0, dtype=np.float32):
  draw = lambda *shape: (scale * RNG.normal(1, 2, (workers, *shape))).astype(
    dtype)
  return {'dense': {'kernel': draw(5, 3), 'bias': draw(3)}, 'head': draw(7)}


class WorkerMomentsTest(parameterized.TestCase):

  def test_leaves_without_a_gradient_are_refused_by_name(self):
    grads = {'w': jnp.ones((2, 3)), 'i': np.zeros((2, 3), jax.dtypes.float0)}
    with self.assertRaisesRegex(ValueError, "gradient.'i'. has dtype"):
      gradiv.worker_moments(grads, 'workers')

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_equals_numpy(self, backend, axis, workers):
    moments_of = gradiv.map_workers(
      lambda g: gradiv.worker_moments(g, axis, batch_size=4), axis,
      out_axes=None, backend=backend)
    for scale in (1e-10, 1.0, 1e10):
      grads = sample(workers, scale)
      helpers.assert_close(moments_of(grads), naive(grads, 4), 1e-5)

  @parameterized.named_parameters(*helpers.ON_EACH)
  def test_unequal_batches(self, backend, axis, workers):
    self.check_unequal_batches(backend, axis, workers)

  @parameterized.named_parameters(*helpers.ON_THE_REST)
  @pytest.mark.slow
  def test_unequal_batches_in_other_layouts(self, backend, axis, workers):
    self.check_unequal_batches(backend, axis, workers)

  def check_unequal_batches(self, backend, axis, workers):
    grads, batches = sample(workers), np.arange(1., workers + 1, dtype='f')
    moments = helpers.on_workers(
      lambda p, _: gradiv.worker_moments(p[0], axis, batch_size=p[1]),
      (grads, batches), axis_name=axis, backend=backend)
    helpers.assert_close(moments, naive(grads, batches), 1e-5)

  def test_centered_where_the_difference_of_squares_cancels(self):
    rng = np.random.default_rng(1)
    grads = 1e4 + rng.normal(0, 1e-2, (8, 100)).astype(np.float32)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), grads)
    np.testing.assert_allclose(
      moments.mean_sq_deviation, naive(grads).mean_sq_deviation, 1e-2)
    g = np.float32(grads)
    uncentered = np.mean(np.sum(g**2, 1)) - np.sum(g.mean(0)**2)
    self.assertGreater(  # the formula that is not used
      abs(uncentered / naive(grads).mean_sq_deviation - 1), 1)

  def test_bfloat16_is_summed_in_float32(self):
    grads = sample(8, dtype=jnp.bfloat16)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), grads)
    helpers.assert_close(moments, naive(grads), 1e-5)
    self.assertEqual({x.dtype for x in moments}, {jnp.dtype('float32')})

  def test_complex_gradients(self):
    grads = (RNG.normal(size=(8, 5)) + 1j * RNG.normal(size=(8, 5))).astype(
      np.complex64)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), grads)
    split = np.concatenate([grads.real, grads.imag], 1)
    helpers.assert_close(moments, naive(split), 1e-5)

  def test_sum_reduced_loss(self):
    grads = sample(8)
    both = [helpers.on_workers(
      lambda g, _: gradiv.worker_moments(
        g, 'workers', batch_size=4, reduction=reduction), tree)
      for reduction, tree in (
        ('mean', grads), ('sum', jax.tree.map(lambda g: 4 * g, grads)))]
    helpers.assert_close(*both)

  def test_groups_are_one_axis_in_the_order_of_their_names(self):
    grads = sample(8)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(
        g, 'workers', groups=gradiv.by_layer), grads)
    names = gradiv.group_names(grads, gradiv.by_layer)
    self.assertEqual(names, ('dense', 'head'))
    for i, name in enumerate(names):
      one = jax.tree.map(lambda x: x[i], moments)
      helpers.assert_close(one, naive(grads[name]), 1e-5)
    # Any metric applies.
    self.assertEqual(gradiv.gradient_diversity(moments).shape, (2,))
    self.assertEqual(
      gradiv.batch_size_bound(gradiv.estimate(moments)).shape, (2,))
    helpers.assert_same(moments, helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers', layout=gradiv.Layout(
        groups=gradiv.by_layer)), grads))

  def test_leaves_that_are_summed_at_once_equal_each_alone(self):
    """Scalars, large leaves, and many of one shape and of two dtypes."""
    shapes = ((), (3,), (3,), (2, 3), (300, 301), (3,), (2, 3), (300, 301))
    grads = {f'{i}': RNG.normal(1, 2, (8, *s)).astype('f') for i, s in
             enumerate(shapes)}
    grads['5'] = grads['5'].astype(jnp.bfloat16)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(
        g, 'workers', groups=gradiv.by_layer), grads)
    for i in range(len(shapes)):
      helpers.assert_close(
        jax.tree.map(lambda x: x[i], moments), naive(grads[f'{i}']), 1e-5)

  @parameterized.parameters(
    (np.float32(4),), (np.array(4),), (np.full(8, 4),))
  def test_numpy_batch_sizes(self, batch_size):
    grads = sample(8)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers', batch_size=batch_size),
      grads)
    helpers.assert_close(moments, naive(grads, 4), 1e-5)

  def test_one_batch_size_for_each_worker(self):
    grads, batches = sample(8), np.arange(1, 9)
    for given in (batches, jnp.array(batches, float)):
      moments = helpers.on_workers(
        lambda g, _: gradiv.worker_moments(g, 'workers', batch_size=given),
        grads)
      helpers.assert_close(moments, naive(grads, batches), 1e-5)

  def test_no_leaves(self):
    for groups in (None, gradiv.by_layer):
      moments = jax.jit(jax.vmap(
        lambda _, groups=groups: gradiv.worker_moments(
          {}, 'workers', groups=groups),
        axis_name='workers', axis_size=4, out_axes=None))(jnp.zeros(4))
      self.assertEqual(moments.sq_norm_of_mean.size, groups is None)
      self.assertFalse(np.any(moments.mean_sq_deviation))

  def test_two_collectives_beside_the_mean(self):
    """One all-reduce of the gradient, shared with the mean, and a scalar."""
    def fn(g, _):
      tx = gradiv.aggregate_by_mean('workers')
      mean, _ = tx.update(g, tx.init(g))
      return gradiv.worker_moments(g, 'workers', batch_size=4), mean

    mapped = gradiv.map_workers(
      fn, 'workers', in_axes=(0, None), out_axes=None, backend='shard_map')
    text = jax.jit(mapped).lower(sample(8), ()).compile().as_text()
    reduces = [line.split('all-reduce(')[0] for line in text.splitlines()
               if 'all-reduce(' in line and early_sums.AGAIN not in line]
    self.assertLen(reduces, 2, reduces)
    shapes = sorted(re.findall(r'f32\[([0-9,]*)\]', ' '.join(reduces)))
    # The gradient once, with how many are finite; then the deviation.
    self.assertEqual(shapes, ['', '', '3', '5,3', '7'], reduces)

  @parameterized.parameters(
    (dict(batch_size=0), 'batch_size'),
    (dict(batch_size=np.full(8, -2.)), 'batch_size'),
    (dict(batch_size=np.ones(3)), 'batch_size'),
    (dict(reduction='avg'), 'reduction'),
    (dict(groups=gradiv.by_layer,
          layout=gradiv.Layout(groups=gradiv.by_layer)), 'groups'),
    (dict(layout=gradiv.Layout(mean_over='workers')), 'workers'),
  )
  def test_unusable_arguments_are_refused(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      helpers.on_workers(
        lambda g, _: gradiv.worker_moments(g, 'workers', **kwargs), sample(4))


class MergeMomentsTest(parameterized.TestCase):

  @parameterized.parameters((4, 4, 3, 3), (5, 2, 4, 4), (3, 6, 2, 7))
  def test_pools_exactly(self, n_a, n_b, b_a, b_b):
    a, b = RNG.normal(size=(n_a, 9)), RNG.normal(2, 1, size=(n_b, 9))
    merged = gradiv.merge_moments(
      naive({'g': a}, b_a), naive({'g': b}, b_b),
      sq_distance=np.sum((a.mean(0) - b.mean(0))**2))
    batches = np.repeat([b_a, b_b], [n_a, n_b])
    helpers.assert_close(
      merged, naive({'g': np.concatenate([a, b])}, batches), 1e-6)

  def test_opposite_means_do_not_turn_negative(self):
    a = gradiv.Moments(1., 1., 1e6, 0.)
    merged = gradiv.merge_moments(a, a, sq_distance=np.float32(4.0000005e6))
    self.assertEqual(float(merged.sq_norm_of_mean), 0.)


if __name__ == '__main__':
  absltest.main()
