"""What is read off a state: consistent, by name, and from any loop."""

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
from gradiv.diversity import intervals, tracking
from tests import helpers

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}


def follow(signals, noises, decay=0.95, **kwargs):
  """Track estimates without a sampling error of their own."""
  tx = gradiv.track_moments(decay=decay, **kwargs)
  state = tx.init(())
  update = jax.jit(lambda s, m: tx.update((), s, moments=m)[1])
  for g, s in zip(signals, noises):
    state = update(state, gradiv.Moments(
      *jnp.float32([8, 1, g + s / 8, s * 7 / 8])))
  return state


class ReadingTest(parameterized.TestCase):

  def test_the_estimate_lies_in_its_interval_also_under_drift(self):
    """Where the signal falls, the average of the past does not."""
    rng = np.random.default_rng(0)
    t = np.arange(60)
    for drift in (0, .02, .05, -.05):
      state = follow(np.exp(-drift * t) * rng.normal(1, .05, 60),
                     rng.normal(9, .2, 60))
      reading = gradiv.read_moments(state)
      inside = {}
      for name in ('estimate', 'average'):
        low, high = reading.interval.of(gradiv.batch_size_bound)
        value = gradiv.batch_size_bound(getattr(reading, name))
        inside[name] = bool(low <= value <= high)
      self.assertTrue(inside['estimate'])
      if abs(drift) > .04:
        self.assertFalse(inside['average'])
        self.assertFalse(bool(reading.interval.is_trusted))

  def test_is_the_average_before_a_line_can_be_fitted(self):
    empty = gradiv.read_moments(follow([], []))
    self.assertTrue(np.isnan(empty.estimate.sq_norm))
    self.assertEqual(float(empty.batch_size_at_least), 1)
    reading = gradiv.read_moments(follow([1., 3.], [4., 4.], decay=.5))
    np.testing.assert_allclose(reading.estimate.sq_norm, 7 / 3, 1e-5)
    helpers.assert_same(reading.estimate, reading.average)
    self.assertEqual(int(reading.window), 0)

  def test_says_what_the_sums_say(self):
    rng = np.random.default_rng(1)
    state = follow(rng.normal(1, .1, 50), rng.normal(9, 1, 50), level=.9)
    reading = gradiv.read_moments(state)
    helpers.assert_close(
      reading.interval, intervals.interval(state.averages, .95, level=.9),
      1e-4)
    self.assertEqual(int(reading.window), 18)  # (1 − .95⁵⁰)/(1 − .95)
    low, _ = reading.interval.of(gradiv.batch_size_bound)
    np.testing.assert_allclose(reading.batch_size_at_least, low, 1e-4)

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

  def test_an_interval_at_infinity_knows_nothing(self):
    """Where the signal is negative beyond doubt, both ends are infinite."""
    rng = np.random.default_rng(0)
    reading = gradiv.read_moments(follow(
      rng.normal(-1, .01, 60), rng.normal(9, .01, 60)))
    low, high = reading.interval.of(gradiv.batch_size_bound)
    self.assertTrue(np.isinf([low, high]).all())
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
