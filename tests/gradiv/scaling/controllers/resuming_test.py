"""Controllers resume exactly, and lead to no further programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv.scaling import controllers as lib
from tests import helpers
from tests.gradiv.scaling.controllers.cases import (
  FROM_READINGS,
  LADDER,
  PROBLEM,
  follow,
  reading,
  readings,
)


class ResumeTest(parameterized.TestCase):

  @parameterized.named_parameters(
    *((name, control, readings) for name, control, *_ in FROM_READINGS),
    ('loss_driven', lib.LossDriven(ladder=LADDER),
     lambda: np.geomspace(2, .01, 40)),
    ('fixed', lib.FixedRamp(ladder=lib.Ladder(4, 16), starts=(0, 20, 30)),
     lambda: range(50)),
    ('seesaw', lib.Seesaw(ladder=LADDER, schedule=lambda n: .9**n),
     lambda: range(50)),
    ('inner_product', lib.InnerProductTest(ladder=LADDER, nu=1.), lambda: [
      g @ g.T for g in PROBLEM.grads(50, 16)]))
  def test_is_the_uninterrupted_run_bit_for_bit(self, control, inputs):
    inputs = list(inputs())
    states = follow(control, inputs)
    middle = len(inputs) // 2
    leaves, structure = jax.tree.flatten(states[middle])
    for leaf in leaves:
      self.assertIsInstance(leaf, (int, float))
    # A checkpoint holds arrays of 64 bits, or text that says every digit.
    saved = [type(x)(repr(x)) for x in leaves]
    resumed = follow(control, inputs[middle:], structure.unflatten(saved))
    for a, b in zip(states[middle:], resumed, strict=True):
      self.assertEqual(repr(a), repr(b))

  def test_no_program_beyond_the_ladder(self):
    traces = []

    @jax.jit
    def step(batch):
      traces.append(len(batch))
      return batch.sum()

    control = lib.NoiseScale(ladder=lib.Ladder(8, 32))
    state = control.init()
    for known in [reading(1e4, 1e5), reading(1, 2), reading(14, 17)] * 3:
      state, size = control.update(state, known)
      step(np.ones(size, np.float32))
    self.assertEqual(sorted(traces), [8, 16, 32])

  def test_a_state_must_be_on_the_ladder(self):
    control = lib.NoiseScale(ladder=LADDER)
    with self.assertRaisesRegex(ValueError, 'batch_size'):
      control.update(lib.ControllerState(batch_size=48), reading(4, 5))


class TrainingTest(absltest.TestCase):
  """SGD on a quadratic, where the noise scale grows as the gradient falls."""

  control = lib.NoiseScale(
    ladder=lib.Ladder(8, 32), multiple=.5, rate_rule='sqrt')
  tracker = gradiv.track_moments(decay=.9)

  def setUp(self):
    super().setUp()
    self.traces = []
    self.steps = jax.jit(self.take_steps, static_argnames='size')

  def take_steps(self, params, tracked, key, rate, size):
    self.traces.append(size)

    def step(carry, key):
      params, tracked = carry
      grads = params[None] + jax.random.normal(key, (size, 16))
      mean = grads.mean(0)
      moments = gradiv.Moments(
        jnp.float32(size), jnp.float32(1), jnp.sum(mean**2),
        jnp.sum((grads - mean[None])**2) / size)
      _, tracked = self.tracker.update((), tracked, moments=moments)
      return (params - rate * mean, tracked), None

    (params, tracked), _ = jax.lax.scan(
      step, (params, tracked), jax.random.split(key, 20))
    return params, tracked, gradiv.read_moments(tracked)

  def train(self, carry, looks):
    """Train from look to look; return the last state and all batch sizes."""
    (params, tracked, state), sizes = carry, []
    for look in looks:
      rate = .02 * self.control.rate_factor(state)
      params, tracked, read = self.steps(
        params, tracked, jax.random.key(look), rate, size=state.batch_size)
      state, size = self.control.update(state, read)
      sizes.append(size)
    return (params, tracked, state), sizes

  @pytest.mark.slow
  def test_grows_along_the_ladder_and_resumes_bit_for_bit(self):
    start = jnp.ones(16), self.tracker.init(()), self.control.init()
    end, sizes = self.train(start, range(40))
    self.assertEqual((sizes[0], sizes[-1]), (8, 32))
    middle, first = self.train(start, range(15))
    saved = jax.tree.map(np.array, middle[:2]), tuple(middle[2])
    (params, tracked), numbers = saved
    resumed, second = self.train(
      (params, tracked, lib.ControllerState(*numbers)), range(15, 40))
    self.assertEqual(first + second, sizes)
    helpers.assert_same(resumed[:2], end[:2])
    self.assertEqual(resumed[2], end[2])
    self.assertLen(set(self.traces), len(self.traces))
    self.assertLessEqual(len(self.traces), 3)


if __name__ == '__main__':
  absltest.main()
