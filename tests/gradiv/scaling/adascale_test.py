"""AdaScale: the gain, the step count τ, and what is left unscaled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import scaling
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import collectives, compiled


def of_workers(inner=None, track=None, batch_size=1, **kwargs):
  """Build AdaScale for workers, with examples as large as the small batch."""
  return scaling.scale_by_diversity(
    gradiv.track_moments('workers', batch_size=batch_size, **track or {}),
    inner or gradiv.aggregate_by_mean('workers'), batch_size=batch_size,
    **kwargs)


def on_workers(tx, grads, state, **extra):
  """Take a step on gradients with a leading axis of workers."""
  return jax.vmap(lambda g: tx.update(g, state, **extra), axis_name='workers',
                  out_axes=None)(grads)


@jax.jit
def compiled_step(grads, scale, batch_size, min_gain, max_gain):
  """Take the first step; compiled once for all numbers."""
  tx = of_workers(batch_size=batch_size, scale=2, min_gain=min_gain,
                  max_gain=max_gain)
  return on_workers(tx, grads, tx.init(grads[0]), scale=scale)


def first_step(grads, scale=8, batch_size=1, min_gain=1, max_gain=1e9):
  return compiled_step(np.asarray(grads, np.float32), *map(
    np.float32, (scale, batch_size, min_gain, max_gain)))


def draw(mean, seed=0):
  """Draw eight gradients of eight numbers."""
  return np.random.default_rng(seed).normal(mean, 1, (8, 8)).astype('f')


class GainTest(parameterized.TestCase):

  def test_of_equal_gradients_is_one(self):
    update, state = first_step(np.ones((8, 8)))
    self.assertEqual(float(state.gain), 1)
    np.testing.assert_array_equal(update, np.ones(8))

  def test_of_orthogonal_gradients_is_their_number(self):
    update, state = first_step(5 * np.eye(8))
    self.assertEqual(float(state.gain), 8)
    # The sum of the gradients, as in the linear rule.
    np.testing.assert_allclose(update, np.full(8, 5), 1e-6)

  def test_case_33_lies_between_one_and_the_scale(self):
    signal, noise = np.meshgrid(*2 * [np.float32([0, 1e-3, 1, 1e3])])
    known = (signal > 0) | (noise > 0)
    for scale in (1, 2, 64):
      gain = gradiv.adascale_gain(
        gradiv.Estimate(signal, noise), batch_size=2, scale=scale)
      self.assertTrue(np.all((1 <= gain) & (gain <= scale * (1 + 1e-6))))
      np.testing.assert_allclose(gain[known & (signal == 0)], scale, 1e-6)
      np.testing.assert_array_equal(gain[known & (noise == 0)], 1)
    gain = gradiv.adascale_gain(
      gradiv.Estimate(3., 12.), batch_size=2, scale=1e9)
    np.testing.assert_allclose(gain, 1 + 12 / 3 / 2, 1e-6)

  @parameterized.parameters(1, 4)
  def test_case_34_is_the_diversity_of_the_sample(self, batch_size):
    """m/h = K Δ, exactly, whatever the examples behind a gradient are."""
    grads = draw(.5)
    _, state = first_step(grads, batch_size=batch_size)
    of_mean = np.sum(grads.mean(0)**2)
    ratio = np.mean(np.sum(grads**2, 1)) / of_mean
    np.testing.assert_allclose(state.gain, ratio, 1e-5)
    diversity = gradiv.gradient_diversity(gradiv.Moments(
      8., batch_size, of_mean, np.mean(np.sum((grads - grads.mean(0))**2, 1))))
    np.testing.assert_allclose(state.gain, 8 * diversity, 1e-5)

  def test_case_34_in_expectation_is_the_gain_of_the_truth(self):
    rng, noise = np.random.default_rng(1), np.float32([3, 1, 2])
    grads = 1 + noise * rng.normal(size=(20_000, 8, 3))
    squares = np.mean(np.sum(grads**2, -1), -1)
    of_mean = np.sum(grads.mean(1)**2, -1)
    gain = float(gradiv.adascale_gain(
      gradiv.Estimate(3., np.sum(noise**2)), batch_size=1, scale=8))
    # A ratio of expectations r: E[squares − r of_mean] = 0.
    helpers.assert_mean(squares - gain * of_mean, 0, rounding=1e-6)

  def test_case_35_sums_micro_steps_and_workers_give_one_gain(self):
    """A loss that is summed, accumulated or split is the same sample."""
    grads = draw(.6)
    update, state = first_step(grads, batch_size=5)
    summing = of_workers(batch_size=5, scale=8, track={'reduction': 'sum'})
    _, summed = jax.jit(functools.partial(on_workers, summing))(
      5 * grads, summing.init(grads[0]))
    np.testing.assert_allclose(summed.gain, state.gain, 1e-6)
    accumulating = gradiv.accumulate_moments(8, scaling.scale_by_diversity(
      gradiv.track_moments(), optax.identity(), batch_size=5, scale=8),
      batch_size=5)

    def step(state, g):
      update, state = accumulating.update(g, state)
      return state, update

    micro, updates = jax.jit(functools.partial(jax.lax.scan, step))(
      accumulating.init(grads[0]), grads)
    np.testing.assert_allclose(micro.inner.gain, state.gain, 1e-6)
    np.testing.assert_allclose(updates[-1], update, 1e-5, 1e-7)

  def test_bounds_fix_the_gain(self):
    grads = draw(1)
    self.assertBetween(float(first_step(grads)[1].gain), 1.2, 3)
    for low, high, expected in ((1, 1.1, 1.1), (3.5, 4, 3.5), (2, 2, 2)):
      _, state = first_step(grads, min_gain=low, max_gain=high)
      self.assertAlmostEqual(float(state.gain), expected, 6)

  def test_is_one_before_anything_is_known(self):
    grads = np.ones((8, 8))
    grads[1, 1] = np.nan
    update, state = first_step(grads)
    self.assertEqual(float(state.gain), 1)
    self.assertEqual(int(state.moments.num_skipped), 1)
    np.testing.assert_array_equal(update, np.ones(8))

  def test_the_scale_of_a_step_is_an_extra_argument(self):
    gains = [float(first_step(draw(1), scale=s)[1].gain) for s in (1, 2, 8)]
    ratio = (gains[2] - 1) / (8 - gains[2])  # S/(8 G), by G + S/8 = 1
    for s, gain in zip((1, 2), gains):
      np.testing.assert_allclose(
        gain, (1 + 8 * ratio) / (1 + 8 * ratio / s), 1e-4)


SCHEDULE = optax.cosine_decay_schedule(.5, 60)


@jax.jit
def compiled_run(grads, end, power, momentum):
  """Take a step on each of [steps, workers, ...]; return all that is seen."""
  inner = optax.chain(
    gradiv.aggregate_by_mean('workers'), optax.trace(momentum))
  tx = of_workers(
    inner, scale=8, learning_rate=SCHEDULE, end=end, power=power)

  def step(state, g):
    update, state = on_workers(tx, g, state)
    return state, (
      update, state.gain, state.progress, state.inner[1].trace)

  return jax.lax.scan(step, tx.init(grads[0, 0]), grads)


class ProgressTest(parameterized.TestCase):

  def run_steps(self, end=1e9, power=1, momentum=0):
    rng = np.random.default_rng(5)
    self.grads = rng.normal(.7, 1, (12, 8, 8)).astype('f')
    state, seen = compiled_run(
      self.grads, *map(np.float32, (end, power, momentum)))
    return state, *map(np.asarray, seen)

  def test_is_the_sum_of_the_gains_and_indexes_the_schedule(self):
    state, updates, gains, progress, _ = self.run_steps()
    np.testing.assert_allclose(progress, np.cumsum(gains), 1e-6)
    self.assertEqual(int(state.num_steps), 12)
    rates = np.array([SCHEDULE(x) for x in np.append(0, progress[:-1])])
    np.testing.assert_allclose(
      updates, -(rates * gains)[:, None] * self.grads.mean(1), 1e-5, 1e-6)

  def test_ends_where_it_should(self):
    state, updates, gains, progress, _ = self.run_steps(end=7)
    self.assertEqual(float(state.progress), 7)
    self.assertAlmostEqual(float(np.sum(gains)), 7, 5)
    over = np.flatnonzero(progress == 7)[0]
    self.assertEqual(int(state.num_steps), over + 1)
    self.assertLess(over, 10)
    self.assertTrue(np.all(updates[over + 1:] == 0))

  def test_momentum_stays_unscaled(self):
    _, updates, gains, progress, traces = self.run_steps(momentum=.9)
    buffer, expected = 0, []
    for g in self.grads.mean(1):
      buffer = .9 * buffer + g
      expected.append(buffer)
    np.testing.assert_allclose(traces, expected, 1e-5, 1e-6)
    self.assertGreater(np.ptp(gains), .1)
    rates = np.array([SCHEDULE(x) for x in np.append(0, progress[:-1])])
    np.testing.assert_allclose(
      updates, -(rates * gains)[:, None] * expected, 1e-5, 1e-5)

  def test_a_root_of_the_gain_moves_the_schedule_by_the_gain(self):
    _, plain, gains, progress, _ = self.run_steps()
    _, root, _, same, _ = self.run_steps(power=.5)
    np.testing.assert_allclose(progress, same, 1e-6)
    np.testing.assert_allclose(root, plain / gains[:, None]**.5, 1e-5, 1e-6)

  def test_as_good_as_small_batches_in_fewer_steps(self):
    """On a quadratic, after as many scale-invariant steps."""
    dim, rate, num, runs = 20, .05, 60, 64
    tx = of_workers(
      scale=8, learning_rate=rate, end=float(num), field='average',
      track={'decay': .9})

    def train(key):
      def step(carry, key):
        params, state = carry
        grads = params[None] + 2 * jax.random.normal(key, (8, dim))
        update, state = on_workers(tx, grads, state)
        return (params + update, state), None

      start = jnp.ones(dim)
      (params, state), _ = jax.lax.scan(
        step, (start, tx.init(start)), jax.random.split(key, num))
      return jnp.sum(params**2) / 2, state.num_steps, state.progress

    keys = jax.random.split(jax.random.key(0), runs)
    loss, steps, progress = map(np.asarray, jax.jit(jax.vmap(train))(keys))
    decay = (1 - rate)**(2 * num)
    small_batch = dim / 2 * (decay + 4 * rate / (2 - rate) * (1 - decay))
    error = loss.std() / runs**.5
    self.assertLess(loss.mean(), small_batch + 4 * error)
    np.testing.assert_array_equal(progress, num)
    self.assertLess(steps.max(), num / 2)


class CompiledTest(absltest.TestCase):

  def test_communicates_what_the_tracker_and_the_mean_do(self):
    params = {'w': jnp.zeros((5, 3)), 'b': jnp.zeros(3)}
    track = gradiv.track_moments('workers', batch_size=1)
    plain = optax.chain(track, gradiv.aggregate_by_mean('workers'))
    counts = [sorted(collectives(compiled(tx, params)))
              for tx in (of_workers(scale=8), plain)]
    self.assertLen(counts[0], 2)
    self.assertEqual(*counts)


if __name__ == '__main__':
  absltest.main()
