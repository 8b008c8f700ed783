"""Replays, against a loop that keeps all versions, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from gradiv import staleness
from tests.gradiv.staleness.servers import MEANS, RULES, trace_of, weights_of

RNG = np.random.default_rng(12)
STEPS, RATE, DECAY = 60, 0.05, 0.7
MATRICES = RNG.normal(size=(len(MEANS), 3, 3))
CENTERS = RNG.normal(size=(40, 3))
START = RNG.normal(size=3)


def gradient(x, worker, index, xp=jnp):
  """Of a loss of the worker's own, on the sample of the arrival; not linear."""
  a, c = xp.asarray(MATRICES)[worker], xp.asarray(CENTERS)[index % 40]
  return a.T @ xp.tanh(a @ x - c)


def of_tree(x, worker, index):
  return {'x': gradient(x['x'], worker, index)}


def naive(trace, weights, change=lambda x, direction, a, versions: direction):
  """Train by momentum on the gradients that `weights` [T, A] tells of."""
  versions, velocity = [START], np.zeros(3)
  for row in weights:
    parts = [row[a] * gradient(versions[trace.version[a]], trace.worker[a], a,
                               np) for a in np.flatnonzero(row)]
    direction = change(versions[-1], np.sum(parts, 0),
                       np.flatnonzero(row)[-1], versions)
    velocity = DECAY * velocity + direction
    versions.append(versions[-1] - RATE * velocity)
  return np.array(versions[1:])


def train(trace, *before):
  """The replay: parameters after each step."""
  tx = optax.chain(*before, optax.sgd(RATE, momentum=DECAY))
  result = jax.jit(lambda x: staleness.replay(
    trace, of_tree, tx, x, measure=lambda x: x['x']))(
      {'x': jnp.asarray(START)})
  np.testing.assert_array_equal(result.params['x'], result.measured[-1])
  return result.measured


class ReplayTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    jax.config.update('jax_enable_x64', True)
    self.addCleanup(jax.config.update, 'jax_enable_x64', False)

  @parameterized.named_parameters(*((r[0], *r) for r in RULES))
  def test_is_the_naive_loop(self, rule, options):
    trace = trace_of(rule, steps=STEPS, **options)
    weights = weights_of(trace, rule, **options)
    np.testing.assert_allclose(
      train(trace), naive(trace, weights), 1e-12, 1e-12)

  def test_extra_arguments_of_the_optimizer(self):
    trace = trace_of('asynchronous', steps=STEPS)
    weights = weights_of(trace, 'asynchronous')

    def scale(x, direction, a, versions):
      return direction * 2 / max(2, trace.staleness[a])

    def correct(x, direction, a, versions):
      return direction + 0.3 * direction**2 * (x - versions[trace.version[a]])

    rule = lambda tau: staleness.cap_staleness(tau, 2)
    for before, change in (
        (staleness.scale_by_staleness(rule), scale),
        (staleness.compensate_delay(0.3), correct)):
      np.testing.assert_allclose(
        train(trace, before), naive(trace, weights, change), 1e-12, 1e-12)
    # They do change something.
    plain, scaled = naive(trace, weights), naive(trace, weights, scale)
    self.assertGreater(np.abs(plain - scaled).max(), 1e-3)

  def test_is_a_recorded_delay(self):
    # Where nothing is drawn: all that asynchrony does is in the staleness.
    trace = trace_of('asynchronous', steps=STEPS)
    tx = optax.chain(
      staleness.delay_updates(staleness.Recorded(trace.staleness)),
      optax.sgd(RATE))
    common = lambda x, worker=0, index=0: gradient(x, 1, 2)

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(common(x), state)
      x = optax.apply_updates(x, updates)
      return (x, state), x

    x = jnp.asarray(START)
    delayed = jax.lax.scan(step, (x, tx.init(x)), None, length=STEPS)[1]
    replayed = staleness.replay(
      trace, common, optax.sgd(RATE), x, measure=lambda x: x).measured
    np.testing.assert_allclose(delayed, replayed, 1e-12)

  def test_derivatives(self):
    # Linear in x_0 on quadratics: the derivative is the product of all steps.
    trace = trace_of('ringleader', steps=30)
    end = lambda x: staleness.replay(
      trace, lambda x, worker, index: (1. + worker) * x, optax.sgd(0.02),
      x).params
    value, slope = jax.value_and_grad(end)(jnp.asarray(2.))
    np.testing.assert_allclose(slope, value / 2, 1e-12)
    self.assertLess(value, 1.9)

  def test_rates_side_by_side(self):
    trace = trace_of('rennala', steps=20, batch_size=4)
    train = lambda rate: staleness.replay(
      trace, lambda x, worker, index: x, optax.sgd(rate),
      jnp.asarray(1.)).params
    rates = np.array([0.01, 0.1, 0.5])
    np.testing.assert_allclose(
      jax.vmap(train)(jnp.asarray(rates)), (1 - rates)**20, 1e-12)


class StructureTest(parameterized.TestCase):

  def test_holds_as_many_versions_as_it_needs(self):
    for rule, options in RULES:
      trace = trace_of(rule, steps=STEPS, **options)
      program = str(jax.make_jaxpr(functools.partial(
        staleness.replay, trace, lambda x, worker, index: x, optax.sgd(0.1)))(
          jnp.zeros(17)))
      depth = 1 + trace.staleness[trace.weight > 0].max()
      self.assertIn(f'f32[{depth},17]', program)
      self.assertNotIn(f'f32[{depth + 1},17]', program)

  def test_versions_are_not_copied(self):
    for rule, options in RULES[:2]:
      trace = trace_of(rule, steps=STEPS, **options)
      rows = f'f32[{1 + trace.staleness.max()},17]'
      text = jax.jit(lambda x: staleness.replay(
        trace, lambda x, worker, index: 2 * x, optax.sgd(0.1), x).params
        ).lower(jnp.zeros(17)).compile().as_text()
      self.assertIn(rows, text)
      self.assertEmpty([line for line in text.splitlines()
                        if ' copy(' in line and rows in line])

  def test_keeps_dtypes(self):
    trace = trace_of('ringleader', steps=10)
    params = {'half': jnp.ones(2, jnp.bfloat16), 'none': None,
              'full': jnp.ones(())}
    result = staleness.replay(
      trace, lambda x, worker, index: x, optax.sgd(0.1), params)
    self.assertEqual(jax.tree.map(jnp.result_type, result.params),
                     jax.tree.map(jnp.result_type, params))
    self.assertIsNone(result.measured)
    self.assertLess(float(result.params['half'][0]), 0.9)

  def test_discarded_gradients_are_not_even_taken(self):
    trace = trace_of('rennala', steps=20, batch_size=2)
    used = trace.weight > 0
    bad = jnp.where(jnp.asarray(used), 1., jnp.nan)
    result = staleness.replay(
      trace, lambda x, worker, index: bad[index], optax.sgd(1.), jnp.zeros(()))
    self.assertFalse(used.all())
    np.testing.assert_allclose(result.params, -20., 1e-6)


if __name__ == '__main__':
  absltest.main()
