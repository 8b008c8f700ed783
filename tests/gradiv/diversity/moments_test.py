"""Moments of workers' gradients, against float64 NumPy on every backend."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
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

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_equals_numpy(self, backend, axis, workers):
    for scale in (1e-10, 1.0, 1e10):
      grads = sample(workers, scale)
      moments = helpers.on_workers(
        lambda g, _: gradiv.worker_moments(g, axis, batch_size=4), grads,
        axis_name=axis, backend=backend)
      helpers.assert_close(moments, naive(grads, 4), 1e-5)

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_unequal_batches(self, backend, axis, workers):
    grads, batches = sample(workers), np.arange(1., workers + 1, dtype='f')
    moments = helpers.on_workers(
      lambda p, _: gradiv.worker_moments(p[0], axis, batch_size=p[1]),
      (grads, batches), axis_name=axis, backend=backend)
    helpers.assert_close(moments, naive(grads, batches), 1e-5)

  def test_centred_where_the_difference_of_squares_cancels(self):
    grads = 1e4 + RNG.normal(0, 1e-2, (8, 100)).astype(np.float32)
    moments = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(g, 'workers'), grads)
    np.testing.assert_allclose(
      moments.mean_sq_deviation, naive(grads).mean_sq_deviation, 1e-2)
    g = np.float32(grads)
    uncentred = np.mean(np.sum(g**2, 1)) - np.sum(g.mean(0)**2)
    self.assertGreater(  # the formula that is not used
      abs(uncentred / naive(grads).mean_sq_deviation - 1), 1)

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

  def test_groups(self):
    grads = sample(8)
    groups = helpers.on_workers(
      lambda g, _: gradiv.worker_moments(
        g, 'workers', groups=gradiv.by_layer), grads)
    self.assertEqual(set(groups), {'dense', 'head'})
    helpers.assert_close(groups['dense'], naive(grads['dense']), 1e-5)
    helpers.assert_close(groups['head'], naive(grads['head']), 1e-5)

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
               if 'all-reduce(' in line]
    self.assertLen(reduces, 2, reduces)
    shapes = sorted(re.findall(r'f32\[([0-9,]*)\]', ' '.join(reduces)))
    # The gradient once; how many are finite; the deviation with the same.
    self.assertEqual(shapes, ['', '', '', '3', '5,3', '7'], reduces)

  @parameterized.parameters(
    (dict(batch_size=0), 'batch_size=0'),
    (dict(batch_size=-2.), 'batch_size=-2.0'),
    (dict(reduction='avg'), "reduction='avg'"),
  )
  def test_bad_arguments(self, kwargs, message):
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
