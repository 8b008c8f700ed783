"""Rates by a law: what is predicted and what is used; Adam's square root."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import scaling


class SquareRootTest(absltest.TestCase):

  def rate(self, noise_scale, batch_size, reference=4):
    return scaling.square_root_rate(
      1., gradiv.Estimate(1., noise_scale), reference_batch_size=reference,
      batch_size=batch_size)

  def test_is_the_law_of_li_et_al(self):
    sizes = np.float32([1, 8, 64, 512])
    law = lambda b: 1 / ((64 / b)**.5 + (b / 64)**.5)
    np.testing.assert_allclose(self.rate(64., sizes), law(sizes) / law(4), 1e-6)

  def test_grows_as_the_root_far_below_the_noise_scale(self):
    np.testing.assert_allclose(self.rate(1e9, 64.), 4, 1e-6)
    unknown = scaling.square_root_rate(
      1., gradiv.Estimate(-1., 9.), reference_batch_size=4, batch_size=64)
    np.testing.assert_allclose(unknown, 4, 1e-6)

  def test_is_largest_at_the_noise_scale(self):
    sizes = np.arange(1, 200, dtype=np.float32)
    self.assertEqual(sizes[np.argmax(self.rate(50., sizes))], 50)


M_RULE = functools.partial(
  scaling.online_rate, reference_batch_size=2, batch_size=16, staleness=3)
ROOT = functools.partial(
  scaling.square_root_rate, reference_batch_size=2, batch_size=16)


class PredictedRatesTest(parameterized.TestCase):

  def run_steps(self, samples, **kwargs):
    """Return the updates for a unit gradient, and the states."""
    tx = scaling.scale_by_predicted_rate(
      gradiv.track_moments(decay=.5), optax.identity(), field='average',
      **kwargs)

    def step(state, moments):
      update, state = tx.update(jnp.ones(()), state, moments=moments)
      return state, (update, state.predicted, state.used)

    stacked = jax.tree.map(lambda *x: jnp.float32(x), *samples)
    return map(np.asarray, jax.jit(functools.partial(jax.lax.scan, step))(
      tx.init(jnp.zeros(())), stacked)[1])

  samples = [gradiv.Moments(2., 1., 4., 1. + i) for i in range(4)]

  @parameterized.named_parameters(('of_sgd', M_RULE), ('of_adam', ROOT))
  def test_follows_the_law_of_the_average(self, rule):
    schedule = lambda count: .5 / (1 + count)
    updates, predicted, used = self.run_steps(
      self.samples, learning_rate=schedule, rule=rule)
    sums = np.zeros(3)
    for i, sample in enumerate(self.samples):
      sums = .5 * sums + (1, *gradiv.estimate(sample))
      expected = rule(schedule(i), gradiv.Estimate(*sums[1:] / sums[0]))
      np.testing.assert_allclose(predicted[i], expected, 1e-5)
    np.testing.assert_array_equal(used, predicted)
    np.testing.assert_allclose(updates, -used, 1e-6)

  def test_records_the_prediction_beside_the_rate_in_use(self):
    updates, predicted, used = self.run_steps(
      self.samples, learning_rate=.25, rule=M_RULE, follows=False)
    np.testing.assert_array_equal(used, .25)
    np.testing.assert_array_equal(updates, -.25)
    self.assertGreater(np.abs(predicted - .25).min(), .01)

  def test_uses_the_given_rate_before_anything_is_known(self):
    _, predicted, used = self.run_steps(
      [gradiv.Moments(1., 1., 4., 0.)], learning_rate=.25, rule=M_RULE)
    self.assertTrue(np.isnan(predicted[0]))
    self.assertEqual(used[0], .25)

  def test_without_a_delay_the_law_of_sgd_is_adascale(self):
    estimate = gradiv.Estimate(3., 50.)
    rate = scaling.online_rate(
      .1, estimate, reference_batch_size=4, batch_size=32)
    gain = gradiv.adascale_gain(estimate, batch_size=4, scale=8)
    np.testing.assert_allclose(rate, .1 * gain, 1e-6)

  def test_refuses(self):
    make = functools.partial(scaling.scale_by_predicted_rate,
                             gradiv.track_moments(), optax.identity())
    with self.assertRaisesRegex(ValueError, 'learning_rate'):
      make(learning_rate=-1., rule=M_RULE)
    with self.assertRaisesRegex(ValueError, 'rule'):
      make(learning_rate=1., rule='adascale')


if __name__ == '__main__':
  absltest.main()
