"""Moments in the metric of Adam, against optax and against a known truth."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import diversity
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import collectives

RNG = np.random.default_rng(7)


def stepped(tx, params, num_steps=3):
  state = tx.init(params)
  for _ in range(num_steps):
    grads = jax.tree.map(
      lambda x: RNG.normal(size=x.shape).astype(np.float32), params)
    _, state = tx.update(grads, state, params)
  return state


class WeightsTest(parameterized.TestCase):

  @parameterized.parameters(1, 2)
  def test_are_what_optax_divides_by(self, num_steps):
    """With β₁ = 0 the update is g/(√v̂ + ε), for the v̂ left in the state."""
    tx = optax.scale_by_adam(b1=0., b2=.9, eps=1e-2, eps_root=1e-3)
    state = stepped(tx, jnp.zeros(5), num_steps - 1)
    grads = jnp.array([1., -2., .1, 3., .5])
    update, state = tx.update(grads, state)
    read = lambda **kw: gradiv.adam_metric(
      state, decay=.9, eps=1e-2, eps_root=1e-3, **kw)
    np.testing.assert_allclose(read(), update / grads, 1e-5)
    np.testing.assert_allclose(read(power=2), (update / grads)**2, 1e-5)

  @pytest.mark.slow
  def test_are_found_in_any_state(self):
    params = {'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3)}
    tx = optax.chain(
      optax.clip(1.), optax.inject_hyperparams(optax.adamw)(.1))
    state = stepped(tx, params)
    nested = gradiv.adam_metric({'optimizer': (state,)})
    own = gradiv.adam_metric(state[1].inner_state[0])
    helpers.assert_same(nested, own)
    self.assertEqual(jax.tree.structure(nested), jax.tree.structure(params))

  @pytest.mark.slow
  def test_of_several_states_are_joined(self):
    params = {'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3)}
    both = {'slow': optax.adam(.1), 'fast': optax.adam(1.)}
    labels = {'w': 'slow', 'b': 'fast'}
    state = stepped(optax.partition(both, labels), params)
    metric = gradiv.adam_metric(state)
    self.assertEqual(jax.tree.structure(metric), jax.tree.structure(params))
    self.assertTrue(np.all(np.isfinite(metric['w'])))
    one = optax.partition(both | {'fast': optax.sgd(1.)}, labels)
    with self.assertRaisesRegex(ValueError, "0 states.*'b'"):
      gradiv.adam_metric(stepped(one, params))
    twice = optax.chain(optax.adam(.1), optax.adam(.1))
    with self.assertRaisesRegex(ValueError, '2 states'):
      gradiv.adam_metric(stepped(twice, params))

  def test_wrong_arguments_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'opt_state holds no'):
      gradiv.adam_metric(optax.sgd(1.).init(jnp.zeros(2)))
    state = optax.adam(.1).init(jnp.zeros(2))
    for name, value in (('decay', 1.), ('eps', 0.), ('eps_root', -1.),
                        ('power', 0.)):
      with self.assertRaisesRegex(ValueError, name):
        gradiv.adam_metric(state, **{name: value})


class MomentsTest(parameterized.TestCase):

  def setUp(self):
    self.grads = {'w': RNG.normal(.5, 1, (16, 3, 2)).astype('f'),
                  'b': RNG.normal(.5, 1, (16, 70)).astype('f')}
    self.metric = jax.tree.map(
      lambda x: RNG.uniform(.1, 2, x.shape[1:]).astype('f'), self.grads)
    self.whitened = jax.tree.map(
      lambda g, d: g * np.sqrt(d), self.grads, self.metric)

  @parameterized.parameters(*gradiv.workers.BACKENDS)
  @pytest.mark.slow
  def test_of_workers_are_those_of_whitened_gradients(self, backend):
    axes = ('devices', 'virtual')
    for kwargs in ({}, {'groups': gradiv.by_layer}):
      of = lambda g, d, kw=kwargs: gradiv.worker_moments(
        g, axes, metric=d, **kw)
      found, expected = (
        helpers.on_workers(of, *args, axis_name=axes, backend=backend)
        for args in ((self.grads, self.metric), (self.whitened, None)))
      helpers.assert_close(found, expected, 1e-5)

  @pytest.mark.slow
  def test_cost_no_further_collective(self):
    def count(metric):
      step = gradiv.map_workers(
        lambda g, d: gradiv.worker_moments(g, 'workers', metric=d), 'workers',
        in_axes=(0, None), out_axes=None, backend='shard_map')
      grads = jax.tree.map(lambda g: g[:8], self.grads)
      return collectives(jax.jit(step).lower(grads, metric).compile())

    self.assertEqual(count(self.metric), count(None))

  def test_of_micro_steps_in_the_metric_of_the_inner_adam(self):
    """Four rounds; in each the metric is that of the rounds before."""
    tx = gradiv.accumulate_moments(
      4, optax.chain(gradiv.track_moments(), optax.adam(.1)), batch_size=2)
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros(70))
    before = tx.init(jnp.zeros(70))
    for i, g in enumerate(self.grads['b']):
      metric = gradiv.adam_metric(state)
      if i % 4 == 0:
        before = metric
      helpers.assert_same(metric, before)
      _, state = update(g, state, metric=metric)
    rows = self.grads['b'][-4:] * np.sqrt(before)
    mean = rows.mean(0)
    helpers.assert_close(state.moments, diversity.Moments(
      4., 2., np.sum(mean**2), np.mean(np.sum((rows - mean)**2, 1))), 1e-4)
    # Of the first round nothing was known.
    self.assertEqual(int(state.inner[0].num_skipped), 1)

  @pytest.mark.slow
  def test_are_tracked_in_the_metric_of_the_step_before(self):
    tx = optax.chain(
      gradiv.track_moments('workers', batch_size=3),
      gradiv.aggregate_by_mean('workers'), optax.adam(.1))
    step = jax.jit(lambda grads, state: jax.vmap(
      lambda g: tx.update(g, state, metric=gradiv.adam_metric(state))[1],
      axis_name='workers', out_axes=None)(grads))
    first, second = self.grads['b'][:8], self.grads['b'][8:]
    before = step(first, tx.init(first[0]))
    self.assertEqual(int(before[0].num_skipped), 1)  # v was zero
    found = gradiv.read_moments(step(second, before)).last
    # √v̂ after one step is the first mean gradient, without its sign.
    rows = second / np.sqrt(np.abs(first.mean(0)))
    helpers.assert_close(found, gradiv.estimate(
      helpers.moments_of(rows, batch_size=3)), 1e-3)

  def test_of_another_shape_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'metric with leaves of shapes'):
      helpers.on_workers(lambda g, d: gradiv.worker_moments(
        g, 'workers', metric=d), self.grads, {'w': np.ones((3, 2))})
    tx = gradiv.track_moments()
    with self.assertRaisesRegex(ValueError, 'metric is given with moments'):
      tx.update(jnp.ones(3), tx.init(()), metric=jnp.ones(3),
                moments=gradiv.Moments(2., 1., 1., 1.))


class QuadraticTest(absltest.TestCase):

  def test_noise_scale_is_the_closed_form(self):
    """½(w − x)ᵀH(w − x) with Cov x = diag(s²): Σ_jj = h² s²."""
    h, s, w = (np.array(x) for x in ([3., 1., .2], [1., .5, 4.], [1., 2., -3.]))
    rng = np.random.default_rng(3)
    tx = optax.scale_by_adam(b2=.99)
    state = tx.init(jnp.zeros(3))
    for _ in range(50):
      _, state = tx.update(
        jnp.float32(h * (w - s * rng.normal(size=3))), state)
    p = np.asarray(gradiv.adam_metric(state, decay=.99), float)
    draws = h * (w - s * rng.normal(size=(4000, 8, 3)))

    def one(grads):
      return gradiv.estimate(jax.vmap(
        lambda g: gradiv.worker_moments(g, 'w', metric=jnp.float32(p)),
        axis_name='w', out_axes=None)(grads))

    found = jax.jit(jax.vmap(one))(jnp.float32(draws))
    signal, noise = np.sum(p * (h * w)**2), np.sum(p * (h * s)**2)
    helpers.assert_mean(found.sq_norm, signal)
    helpers.assert_mean(found.variance, noise)
    ratio = gradiv.noise_scale(diversity.Estimate(
      *(np.mean(np.asarray(x, float)) for x in found)))
    np.testing.assert_allclose(ratio, noise / signal, .05)


if __name__ == '__main__':
  absltest.main()
