"""Masks and noise: their moments, their streams, and their states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import compression, perturbations
from tests import helpers

RNG = np.random.default_rng(10)
KEY = jax.random.key(3)
DRAWS = 4000


def drop(axis_name=None, **options):
  return gradiv.drop_updates(
    0.3, key=KEY, axis_name=axis_name, **options)


def noise(axis_name=None):
  return gradiv.add_langevin_noise(0.5, key=KEY, axis_name=axis_name)


EACH = (('drop', drop), ('noise', noise))


def draws(make, grads, num_steps, backend='vmap'):
  """Updates [steps, workers, ...] of each worker's own draws."""
  tx = make('workers')

  def steps(g):
    return jax.lax.scan(
      lambda s, _: tx.update(g, s)[::-1], tx.init(g), None,
      length=num_steps)[1]

  mapped = gradiv.map_workers(steps, 'workers', backend=backend)
  return np.moveaxis(np.asarray(mapped(grads)), 0, 1)


class MomentsTest(parameterized.TestCase):

  @parameterized.parameters('vmap', 'shard_map')
  @pytest.mark.slow
  def test_means_and_variances(self, backend):
    grads = jnp.float32(RNG.normal(size=(2, 5)))
    for rescale in (False, True):
      seen = draws(lambda axis: drop(axis, rescale=rescale), grads, DRAWS,
                   backend)
      scale = 1 / 0.7 if rescale else 1
      helpers.assert_mean(seen, 0.7 * scale * grads)
      helpers.assert_mean(seen**2, 0.7 * (scale * grads)**2)
    seen = draws(noise, grads, DRAWS, backend)
    helpers.assert_mean(seen, grads)
    helpers.assert_mean((seen - grads[None])**2, np.full((2, 5), 0.25))

  @parameterized.named_parameters(*EACH)
  def test_workers_steps_and_leaves_draw_independently(self, make):
    seen = draws(make, jnp.ones((2, 1000)), 2).reshape(4, 1000)
    np.testing.assert_array_less(
      np.abs(np.corrcoef(seen)[np.triu_indices(4, 1)]), 4.5 / np.sqrt(1000))
    tx = make()
    tree = {'a': jnp.ones(1000), 'b': jnp.ones(1000)}
    update, _ = tx.update(tree, tx.init(tree))
    self.assertLess(abs(np.corrcoef(update['a'], update['b'])[0, 1]), 0.15)

  @parameterized.named_parameters(*EACH)
  def test_without_an_axis_all_workers_share_the_draw(self, make):
    tx = make()
    update = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], np.ones((4, 9), 'f'),
      tx.init(jnp.ones(9)), out_axes=0)
    for row in update[1:]:
      np.testing.assert_array_equal(row, update[0])

  @parameterized.named_parameters(*EACH)
  def test_dtypes_and_structure_are_kept(self, make):
    tx = make()
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
      tree = {'a': jnp.ones((2, 3), dtype), 'none': None,
              'empty': jnp.ones(0, dtype)}
      update, state = tx.update(tree, tx.init(tree))
      self.assertEqual(update['a'].dtype, dtype)
      self.assertEqual(jax.tree.structure(update), jax.tree.structure(tree))
      self.assertEqual(int(state.count), 1)


class StateTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_states_keep_their_dtypes_in_float64(self):
    self.enterContext(helpers.double_precision())
    grads = jnp.ones((4, 6, 5), jnp.float64)
    common = (
      drop('workers'), noise('workers'),
      gradiv.quantize_updates(2, key=KEY, axis_name='workers'),
      gradiv.aggregate_by_quantized_mean(8, 'workers', key=KEY),
      compression.aggregate_by_low_rank(1, 'workers', key=KEY),
      optax.chain(
        gradiv.aggregate_by_mean('workers'),
          perturbations.precondition_langevin(
          .1, key=KEY, decay=np.float64(0.9))))
    for dtype in (jnp.float32, jnp.float64):
      rows = grads.astype(dtype)
      for tx in common:
        start = tx.init(rows[0])
        update, state = jax.jit(jax.vmap(
          tx.update, (0, None), (0, None), axis_name='workers'))(rows, start)
        self.assertEqual(update.dtype, dtype)
        spec = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(
          tree)]
        self.assertEqual(spec(state), spec(start))

  @pytest.mark.slow
  def test_numbers_may_be_scheduled_and_injected(self):
    """A constant schedule, inside or around, is the constant."""
    grads = jnp.float32(RNG.normal(size=50))
    constant = lambda value: lambda count: jnp.float32(value)
    for make, name, value in (
        (gradiv.drop_updates, 'rate', 0.3),
        (gradiv.add_langevin_noise, 'stddev', 0.3),
        (perturbations.precondition_langevin, 'stddev', 0.3)):
      inject = optax.inject_hyperparams(make)
      expected = None
      for tx in (make(value, key=KEY), make(constant(value), key=KEY),
                 make(jnp.float32(value), key=KEY),
                 inject(**{name: value}, key=KEY),
                 inject(**{name: constant(value)}, key=KEY)):
        update, _ = jax.jit(tx.update)(grads, tx.init(grads))
        expected = update if expected is None else expected
        np.testing.assert_allclose(update, expected, 1e-6, 1e-6)

  def test_donating_a_state_keeps_the_callers_key(self):
    key, zeros = jax.random.key(4), jnp.zeros(3)
    for tx in (gradiv.drop_updates(0.3, key=key),
               gradiv.add_langevin_noise(0.3, key=key),
               gradiv.quantize_updates(1, key=key),
               perturbations.precondition_langevin(0.3, key=key)):
      run, state = jax.jit(tx.update, donate_argnums=1), tx.init(zeros)
      for _ in range(3):
        _, state = run(zeros, state)
    jax.random.bits(key)  # still alive

  @parameterized.parameters(
    (lambda: drop(axis_name=''), 'axis_name'),
    (lambda: gradiv.drop_updates(0.1, key=7), 'key'),
    (lambda: gradiv.add_langevin_noise(0.1, key=None), 'key'),
    (lambda: perturbations.precondition_langevin(0.1, key=1.), 'key'),
    (lambda: gradiv.quantize_updates(1, key='seed'), 'key'),
    (lambda: gradiv.drop_connect(1, jnp.ones(2), 0.1), 'key'),
    (lambda: gradiv.stochastic_quantize(1, jnp.ones(2)), 'key'),
    (lambda: drop(is_sharded=lambda path: True), 'sharded_over'))
  def test_invalid_arguments(self, make, name):
    with self.assertRaisesRegex(ValueError, name):
      make()


if __name__ == '__main__':
  absltest.main()
