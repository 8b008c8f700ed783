"""The sentence and its numbers: by formula, and no stronger than known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv.diversity import advice

INF = math.inf
NAN = math.nan


def reading(value=NAN, low=1., high=INF, *, window=0, more=NAN, at_least=None):
  """Make a reading in which B_S is known as given."""
  end = lambda bound: gradiv.Estimate(
    jnp.float32(1 / bound), jnp.float32(1 - 1 / bound))
  some = gradiv.Estimate(jnp.float32(1), jnp.float32(9))
  return gradiv.Reading(
    estimate=end(value), interval=gradiv.Interval(
      end(low), end(high), jnp.array(window > 0)),
    window=jnp.int32(window),
    batch_size_at_least=jnp.float32(low if at_least is None else at_least),
    steps_until_known=jnp.float32(more), average=some, last=some)


class SentenceTest(parameterized.TestCase):

  @parameterized.parameters(
    (reading(low=87, more=913), 16,
     'batch 16 is far below B_S (at least 87): 64 costs at most 47 % more '
     'gradients and saves at least 63 % of the steps; to know B_S to a factor '
     'of two takes about 910 more steps'),
    (reading(213, 150, 290, window=512), 16,
     'batch 16 is far below B_S, 213 (150 to 290 over the last 512 steps): '
     '128 costs 49 % more gradients and saves 81 % of the steps'),
    (reading(150, 130, 220, window=1024), 64,
     'batch 64 is below B_S, 150 (130 to 220 over the last 1,024 steps): 128 '
     'costs 30 % more gradients and saves 35 % of the steps'),
    (reading(80, 60, 110, window=64), 64,
     'batch 64 is near B_S, 80 (60 to 110 over the last 64 steps): 128 costs '
     '45 % more gradients and saves 28 % of the steps'),
    (reading(40, 30, 55, window=64), 1024,
     'batch 1024 is far above B_S, 40 (30 to 55 over the last 64 steps): 64 '
     'costs 55 % more steps and saves 90 % of the gradients'),
    (reading(low=20, high=60, more=99.6), 512,
     'batch 512 is far above B_S (20 to 60): 64 costs at most 72 % more steps '
     'and saves at least 78 % of the gradients; to know B_S to a factor of '
     'two takes about 100 more steps'),
    (reading(low=12, more=INF), 16,
     'batch 16 cannot be judged yet: B_S is at least 12; to know B_S to a '
     'factor of two takes a larger batch'),
    (reading(), 16,
     'batch 16 cannot be judged yet: B_S is at least 1; how many steps it '
     'takes to know B_S can be said once the mean gradient stands out of the '
     'noise, and not before step 10'),
  )
  def test_says_what_is_known(self, read, batch_size, sentence):
    self.assertEqual(str(gradiv.advise(read, batch_size)), sentence)

  def test_before_the_first_step(self):
    state = gradiv.track_moments().init(())
    self.assertEqual(
      str(gradiv.advise(gradiv.read_moments(state), 16)),
      'batch 16 cannot be judged: no gradients have been compared, as before '
      'the first step, with one worker, or if no step was finite')

  def test_the_steps_that_it_takes_are_said_from_step_10_on(self):
    tx = gradiv.track_moments()
    step = jax.jit(lambda state, sq_norm: tx.update(
      (), state, moments=gradiv.Moments(8., 1., sq_norm, 87.5))[1])
    state, said = tx.init(()), []
    for i in range(12):  # ‖∇F‖² is 6 ± 10, tr Σ is 100
      state = step(state, 12.5 + 6 + 10 * (-1)**i)
      said.append(str(gradiv.advise(gradiv.read_moments(state), 8)))
    count = ['takes about' in sentence for sentence in said]
    missing = ['not before step 10' in sentence for sentence in said]
    self.assertEqual(count, 9 * [False] + 3 * [True])
    self.assertEqual(missing, 9 * [True] + 3 * [False])


class EqualGradientsTest(parameterized.TestCase):
  """Where B_S would seem to be 1, as behind the aggregation."""

  def advise(self, is_behind, is_same, workers=3, dtype=jnp.float32):
    mean = gradiv.aggregate_by_mean('workers')
    track = gradiv.track_moments('workers', batch_size=8)
    tx = optax.chain(*(mean, track) if is_behind else (track, mean))
    grads = jax.random.normal(
      jax.random.key(0), (60, 1 if is_same else workers, 20), dtype) + 1
    grads = jnp.broadcast_to(grads, (60, workers, 20))
    follow = lambda grads: jax.lax.scan(
      lambda state, g: (tx.update(g, state)[1], None), tx.init(grads[0]),
      grads)[0]
    state = jax.jit(jax.vmap(follow, 1, None, axis_name='workers'))(grads)
    return gradiv.advise(gradiv.read_moments(state), 8 * workers)

  @parameterized.parameters(
    (True, False), (False, True), (True, True),
    (True, False, 3, jnp.bfloat16))  # three: their mean is rounded
  def test_nothing_is_advised(self, *args):
    found = self.advise(*args)
    self.assertEqual(
      str(found), 'batch 24 cannot be judged: all gradients were equal up to '
      'rounding; probably track_moments stands behind the aggregation (put it '
      'before), or all are of the same examples')
    self.assertTrue(np.isnan(found.bound.value))
    self.assertEqual(found.cost(48).gradients.low, 1)

  def test_before_the_aggregation_it_is(self):
    found = self.advise(False, False)  # ρ = 8 · 20 / 20
    self.assertNotIn('equal', str(found))
    self.assertBetween(9, found.bound.low, found.bound.high)

  def test_one_worker_is_not_said_to_be_equal_to_others(self):
    self.assertRegex(str(self.advise(True, False, 1)), 'compared.*one worker')

  def test_nor_is_what_differs_a_little_or_usually_or_is_zero(self):
    tx = gradiv.track_moments()
    step = jax.jit(lambda state, *sample: tx.update(
      (), state, moments=gradiv.Moments(8., 1., *sample))[1])
    little, once, zero = [tx.init(()) for _ in range(3)]
    for i in range(20):
      little = step(little, 1., 1e-5)
      zero = step(zero, 0., 0.)
      once = step(once, 1e8, 0.) if i == 15 else step(once, 1., 1.)
    for state in (little, once, zero):
      self.assertNotIn('equal', str(
        gradiv.advise(gradiv.read_moments(state), 8)))


class CostTest(parameterized.TestCase):

  def test_is_that_of_the_steps_factor(self):
    found = gradiv.advise(reading(101, 81, 121, window=64), 32)
    e = gradiv.Estimate(1., 100.)
    for cost in found.costs:
      steps = (gradiv.steps_factor(e, cost.batch_size)
               / gradiv.steps_factor(e, 32))
      np.testing.assert_allclose(cost.steps.value, steps, 1e-5)
      np.testing.assert_allclose(
        cost.gradients.value, steps * cost.batch_size / 32, 1e-5)
      for value, low, high in (cost.steps, cost.gradients):
        self.assertLess(low, value)
        self.assertLess(value, high)
    self.assertEqual([c.batch_size for c in found.costs],
                     [2, 4, 8, 16, 64, 128, 256, 512, 1024, 2048])

  def test_ends_are_those_of_the_bound(self):
    cost = gradiv.advise(reading(low=87), 16).cost(64)
    np.testing.assert_allclose(cost.steps[1:], [.25, (150 / 102) / 4], 1e-5)
    np.testing.assert_allclose(cost.gradients[1:], [1, 150 / 102], 1e-5)
    self.assertTrue(np.isnan([cost.steps.value, cost.gradients.value]).all())

  def test_the_same_batch_costs_the_same(self):
    for read in (reading(101, 81, 121, window=64), reading()):
      cost = gradiv.advise(read, 16).cost(16)
      self.assertEqual(cost.steps[1:], (1, 1))
      self.assertEqual(cost.gradients[1:], (1, 1))

  def test_the_product_of_steps_and_gradients_over_the_least(self):
    """(S/S_min − 1)(E/E_min − 1) = 1, McCandlish et al. 2018."""
    for size in (4, 33, 500):
      cost = gradiv.advise(reading(101, 81, 121, window=64), 32).cost(size)
      steps = cost.steps.value * (1 + 100 / 32)  # over those on exact gradients
      gradients = cost.gradients.value * (1 + 32 / 100)
      self.assertAlmostEqual((steps - 1) * (gradients - 1), 1, places=4)

  def test_less_than_one_example_is_no_batch(self):
    self.assertEqual(gradiv.advise(reading(), 2).costs[0].batch_size, 1)


class ReadingTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_by_layer_the_whole_gradient_counts(self):
    """All layers share one batch."""
    params = {'a': jnp.zeros(3), 'b': jnp.zeros(2)}
    tx = gradiv.track_moments(groups=gradiv.by_layer)
    state = tx.init(params)
    moments = gradiv.Moments(*(jnp.float32([x, x]) for x in (8, 2, 3, 1)))
    for _ in range(20):
      _, state = tx.update(params, state, moments=moments)
    read = gradiv.read_moments(state)
    self.assertEqual(gradiv.advise(read, 16), gradiv.advise(read.whole, 16))

  def test_a_state_is_no_reading(self):
    tx = optax.chain(gradiv.track_moments(), optax.sgd(.1))
    for state in (tx.init(jnp.zeros(2)), tx.init(jnp.zeros(2))[0], None):
      with self.assertRaisesRegex(
          ValueError, f'type {type(state).__name__}.*read_moments'):
        gradiv.advise(state, 16)

  def test_what_cannot_be_advised_on_is_refused(self):
    runs = jax.tree.map(lambda x: jnp.stack([x, x]), reading())
    with self.assertRaisesRegex(ValueError, 'reading'):
      gradiv.advise(runs, 16)
    with self.assertRaisesRegex(ValueError, 'reading'):
      jax.jit(lambda r: gradiv.advise(r, 16) and 0)(reading())
    for size in (0, -1, INF):
      with self.assertRaisesRegex(ValueError, 'batch_size'):
        gradiv.advise(reading(), size)

  def test_is_frozen(self):
    found = gradiv.advise(reading(), 16)
    self.assertIsInstance(found, advice.Advice)
    with self.assertRaises(AttributeError):
      found.window = 3


if __name__ == '__main__':
  absltest.main()
