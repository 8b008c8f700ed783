"""AdaScale by groups, for Adam, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import scaling
from tests.gradiv.scaling.adascale_test import of_workers, on_workers


class GroupsTest(parameterized.TestCase):

  def test_each_group_has_its_own_gain(self):
    rng = np.random.default_rng(6)
    grads = {'a': {'w': rng.normal(2, 1, (4, 5)), 'b': rng.normal(2, 1, 4)},
             'c': {'w': rng.normal(.9, 1, (4, 7))}}
    grads = jax.tree.map(lambda g: g.astype('f'), grads)
    tx = of_workers(scale=4, track={'groups': gradiv.by_layer},
                    groups=gradiv.by_layer)
    updates, state = jax.jit(functools.partial(on_workers, tx))(
      grads, tx.init(jax.tree.map(lambda g: g[0], grads)))
    gains, weights = [], []
    for layer in 'ac':
      flat = np.concatenate(
        [g.reshape(4, -1) for g in jax.tree.leaves(grads[layer])], 1)
      weights.append(np.sum(flat.mean(0)**2))
      gains.append(np.sum(flat**2) / 4 / weights[-1])
      jax.tree.map(lambda u, g: np.testing.assert_allclose(
        u, gains[-1] * g.mean(0), 1e-4), updates[layer], grads[layer])
    # That of the whole is their mean, weighed by E‖ḡ‖² = G + S/(scale b).
    np.testing.assert_allclose(
      state.gain, np.average(gains, weights=weights), 1e-5)
    self.assertGreater(gains[1], 1.3 * gains[0])

  def test_groups_must_be_those_of_the_tracker(self):
    params = {'a': {'w': jnp.zeros(3)}}
    for kwargs in ({'track': {'groups': gradiv.by_layer}},
                   {'groups': gradiv.by_layer}):
      with self.assertRaisesRegex(ValueError, 'groups'):
        of_workers(scale=4, **kwargs).init(params)


class AdamTest(parameterized.TestCase):

  def test_the_gain_is_that_of_preconditioned_gradients(self):
    rng = np.random.default_rng(7)
    grads = (np.float32([.1, 1, 10, 100]) * (
      1 + rng.normal(size=(6, 8, 4)))).astype('f')
    decay, eps, average = .9, 1e-3, .8
    inner = optax.chain(
      gradiv.aggregate_by_mean('workers'),
      optax.scale_by_adam(b2=decay, eps=eps))
    tx = of_workers(
      inner, scale=8, power=.5, field='average', track={'decay': average},
      precondition=scaling.precondition_like_adam(decay, eps))
    step = jax.jit(functools.partial(on_workers, tx))
    state, nu, sums = tx.init(jnp.zeros(4)), 0, np.zeros(3)
    for i, g in enumerate(grads):
      if i:
        scaled = g / (np.sqrt(nu / (1 - decay**i)) + eps)
        noise = np.sum(scaled.var(0, ddof=1))
        signal = np.sum(scaled.mean(0)**2) - noise / 8
        sums = average * sums + (1, signal, noise)
      nu = decay * nu + (1 - decay) * g.mean(0)**2
      _, state = step(g, state)
    self.assertEqual(int(state.moments.num_skipped), 1)
    _, signal, noise = sums / sums[0]
    np.testing.assert_allclose(
      state.gain, (signal + noise) / (signal + noise / 8), 1e-4)
    # In units of Adam's steps, each coordinate tells about as much.
    self.assertBetween(noise / signal, .3, 3)

  def test_there_must_be_one_adam(self):
    tx = of_workers(scale=2, precondition=scaling.precondition_like_adam())
    with self.assertRaisesRegex(ValueError, 'scale_by_adam'):
      on_workers(tx, np.ones((2, 3), 'f'), tx.init(jnp.zeros(3)))


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
    ('batch_size', 0), ('scale', .5), ('learning_rate', -1.), ('min_gain', -1),
    ('max_gain', 0), ('end', -5), ('power', float('nan')))
  def test_numbers(self, name, value):
    with self.assertRaisesRegex(ValueError, name):
      of_workers(**{'scale': 2} | {name: value})

  def test_fields(self):
    with self.assertRaisesRegex(ValueError, 'field'):
      of_workers(scale=2, field='interval')

  def test_what_does_not_track(self):
    tx = scaling.scale_by_diversity(
      optax.identity(), optax.identity(), batch_size=1, scale=2)
    with self.assertRaisesRegex(ValueError, 'track_moments'):
      tx.init(jnp.zeros(3))


if __name__ == '__main__':
  absltest.main()
