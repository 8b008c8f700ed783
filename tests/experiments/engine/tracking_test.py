"""What a run records of its gradients by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

import gradiv
from experiments import engine

PARAMS = {'a': {'w': jnp.zeros(2)}, 'b': {'w': jnp.zeros(3)}}


def after(optimizer, steps, num_workers=4):
  """Return the state after steps with random gradients."""
  state = optimizer.init(PARAMS)
  update = gradiv.map_workers(
    lambda g, s: optimizer.update(g, s)[1], 'workers', in_axes=(0, None),
    out_axes=None)
  rng = np.random.default_rng(0)
  grads = lambda: jax.tree.map(
    lambda x: jnp.float32(1 + rng.normal(size=(num_workers, *x.shape))), PARAMS)
  for _ in range(steps):
    last = grads()
    state = update(last, state)
  return state, last


class TrackedTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    optimizer = optax.chain(
      gradiv.track_moments('workers', batch_size=2, groups=gradiv.by_layer),
      engine.keep_gram(4), gradiv.aggregate_by_mean('workers'))
    cls.state, cls.grads = after(optimizer, 20)
    cls.reading = gradiv.read_moments(cls.state)
    names = gradiv.group_names(PARAMS, gradiv.by_layer)
    cls.found = jax.jit(functools.partial(engine.tracked, names=names))(
      cls.state)

  def test_is_what_the_reading_says_of_the_whole_gradient(self):
    reading = self.reading.whole
    self.assertGreater(reading.window, 0)
    low, high = reading.interval.of(gradiv.batch_size_bound)
    for name, value in {
        'sq_norm': reading.average.sq_norm, 'window': reading.window,
        'batch_size_bound': gradiv.batch_size_bound(reading.estimate),
        'batch_size_bound_low': low, 'batch_size_bound_high': high,
        'batch_size_at_least': reading.batch_size_at_least}.items():
      np.testing.assert_allclose(
        self.found[name], value, rtol=1e-6, err_msg=name)

  def test_groups_by_their_names(self):
    np.testing.assert_allclose(
      [self.found['variance/a'], self.found['variance/b']],
      self.reading.average.variance, rtol=1e-6)

  def test_gram(self):
    flat = np.concatenate(
      [x.reshape(4, -1) for x in jax.tree.leaves(self.grads)], 1)
    np.testing.assert_allclose(
      self.found['worker_gram'], flat @ flat.T, rtol=1e-5)

  def test_nothing_tracked_is_nothing_recorded(self):
    self.assertEqual(engine.tracked(optax.adam(.1).init(PARAMS)), {})


if __name__ == '__main__':
  absltest.main()
