"""What is read off a state: consistent, by name, and from any loop."""

import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from absl.testing import absltest, parameterized
from flax import nnx

import gradiv
from gradiv.diversity import tracking, windows
from tests import helpers

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}


@functools.cache
def tracker(decay, **kwargs):
  """Return the first state, and a compiled step of moments."""
  tx = gradiv.track_moments(decay=decay, **kwargs)
  return tx.init(()), jax.jit(lambda s, m: tx.update((), s, moments=m)[1])


def follow(signals, noises, decay=0.95, **kwargs):
  """Track estimates without a sampling error of their own."""
  state, update = tracker(decay, **kwargs)
  for g, s in zip(signals, noises):
    state = update(state, gradiv.Moments(
      *jnp.float32([8, 1, g + s / 8, s * 7 / 8])))
  return state


class ReadingTest(parameterized.TestCase):

  def test_ratio_of_the_window_and_sum_of_the_average(self):
    rng = np.random.default_rng(0)
    t = np.arange(300)
    fall = np.exp(-.02 * t)
    state = follow(fall * rng.normal(1, .05, 300),
                   fall * rng.normal(9, .2, 300))
    reading = gradiv.read_moments(state)
    known = windows.read(state.windows)
    np.testing.assert_allclose(
      gradiv.inverse_batch_size_bound(reading.estimate), known.fraction, 1e-5)
    np.testing.assert_allclose(
      sum(reading.estimate), sum(reading.average), 1e-5)
    low, high = reading.interval.of(gradiv.batch_size_bound)
    self.assertLess(low, 10)
    self.assertLess(10, high)
    self.assertTrue(reading.interval.is_trusted)
    self.assertEqual(int(reading.window), 16)
    self.assertEqual(float(reading.steps_until_known), 0)
    self.assertLessEqual(float(reading.batch_size_at_least), 10)
    np.testing.assert_array_equal(reading.last, state.averages.last)

  def test_is_the_average_before_the_windows_begin(self):
    empty = gradiv.read_moments(follow([], []))
    self.assertTrue(np.isnan(empty.estimate.sq_norm))
    self.assertEqual(float(empty.batch_size_at_least), 1)
    self.assertTrue(np.isnan(empty.steps_until_known))
    reading = gradiv.read_moments(follow([1.], [4.], decay=.5))
    helpers.assert_same(reading.estimate, reading.average)
    self.assertEqual(int(reading.window), 0)

  @pytest.mark.slow
  def test_level_is_that_of_the_state(self):
    rng = np.random.default_rng(1)
    draws = rng.normal(1, .1, 50), rng.normal(9, 1, 50)
    wide, narrow = (gradiv.read_moments(follow(*draws, level=level))
                    for level in (.99, .5))
    helpers.assert_close(
      narrow.interval.lower.sq_norm,
      windows.read(follow(*draws).windows, level=.5).most, 1e-5)
    self.assertGreater(
      wide.interval.lower.sq_norm, narrow.interval.lower.sq_norm)
    self.assertLess(wide.batch_size_at_least, narrow.batch_size_at_least)

  def test_inside_of_jit_and_of_vmap_over_runs(self):
    states = [follow([1., 2., 2., 1., 1.1], [s] * 5) for s in (3., 4.)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *states)
    rows = jax.jit(jax.vmap(gradiv.read_moments))(stacked)
    for i, state in enumerate(states):
      helpers.assert_close(jax.tree.map(lambda x: x[i], rows),
                           gradiv.read_moments(state), 1e-5, 1e-6)


class FindingTest(parameterized.TestCase):

  def test_the_one_state_in_a_chain(self):
    tx = optax.chain(
      optax.masked(gradiv.track_moments(groups=gradiv.by_layer), True),
      optax.adam(.1))
    reading = gradiv.read_moments(tx.init(PARAMS))
    self.assertEqual(reading.names, ('dense', 'head'))
    self.assertEqual(reading.estimate.sq_norm.shape, (2,))
    self.assertEqual(reading.whole.window.shape, ())

  def test_none_or_several_are_refused(self):
    track = gradiv.track_moments()
    for tx in (optax.adam(.1), optax.chain(track, track)):
      with self.assertRaisesRegex(ValueError, 'opt_state'):
        gradiv.read_moments(tx.init(PARAMS))
    gradiv.read_moments(optax.chain(track, track).init(PARAMS)[0])

  def test_a_signal_below_zero_gives_a_bound_and_no_window(self):
    rng = np.random.default_rng(0)
    reading = gradiv.read_moments(follow(
      rng.normal(-1, 1, 60), rng.normal(9, .01, 60)))
    low, high = reading.interval.of(gradiv.batch_size_bound)
    self.assertTrue(np.isinf(high))
    self.assertBetween(float(low), 9 / .5, 9 / .2)  # 2.1 deviations of 1/√60
    self.assertEqual(reading.window, 0)
    self.assertFalse(reading.interval.is_trusted)

  def test_in_an_nnx_optimizer(self):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(
      gradiv.track_moments(groups=gradiv.by_layer), optax.sgd(.1)),
      wrt=nnx.Param)
    graph, params = nnx.split(model, nnx.Param)
    loss = lambda p, x: jnp.sum(nnx.merge(graph, p)(x)**2)

    @nnx.jit
    def step(model, optimizer, x):
      _, grads, m = gradiv.example_moments(loss)(nnx.state(model), x)
      optimizer.update(
        model, grads, moments=jax.tree.map(lambda x: x[None], m))

    names = gradiv.group_names(params, gradiv.by_layer)
    if len(names) == 1:
      step(model, optimizer, jnp.eye(3))
    reading = gradiv.read_moments(optimizer.opt_state)
    self.assertEqual(reading.names, names)


class NamesTest(parameterized.TestCase):

  @parameterized.parameters(
    ((),), (('',),), (('a', 'b/c', 'größe'),))
  def test_names_survive_being_an_array(self, names):
    encoded = tracking._encode(names)
    self.assertGreater(encoded.size, 0)
    self.assertEqual(tracking.decode_names(encoded), names)
    self.assertEqual(
      tracking.decode_names(jnp.stack([encoded, encoded])), names)

  @pytest.mark.slow
  def test_a_checkpoint_keeps_them(self):
    tx = optax.chain(gradiv.track_moments(groups=gradiv.by_layer),
                     optax.sgd(.1))
    state = tx.init(PARAMS)
    with tempfile.TemporaryDirectory() as folder:
      with ocp.StandardCheckpointer() as saver:
        saver.save(f'{folder}/it', state)
        saver.wait_until_finished()
        found = saver.restore(f'{folder}/it', jax.eval_shape(lambda: state))
    helpers.assert_same(found, state)
    self.assertEqual(gradiv.read_moments(found).names, ('dense', 'head'))


if __name__ == '__main__':
  absltest.main()
