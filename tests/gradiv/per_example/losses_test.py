"""What losses may take, draw, print and close over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import per_example
from tests.gradiv.per_example import reference
from tests.gradiv.per_example.two_layers import (
  BATCH,
  PARAMS,
  N,
  assert_equal,
  loss_fn,
  summed,
  truth,
)


class LossesTest(parameterized.TestCase):

  def test_further_arguments_reach_the_loss_whole(self):
    """A tree that is not mapped over examples, a number, and a string."""
    def with_target(params, example, target, temperature, kind):
      assert kind == 'squared' and target['out']['w'].shape == (5, 3)
      return loss_fn(params, example) / temperature + jnp.sum(
        params['out']['w'] * target['out']['w'])

    target, temperature = jax.tree.map(np.sin, PARAMS), 2.

    @reference.quick_jit
    def run(params, batch, target, temperature):
      args = params, batch, target, temperature, 'squared'
      _, grads, moments = per_example.example_moments(with_target)(*args)
      _, again, _ = per_example.example_moments(
        with_target, microbatch_size=1)(*args)
      _, squares, combine = per_example.example_sq_norms(with_target)(*args)
      _, gram, _ = per_example.example_gram(with_target)(*args)
      over_batch = lambda p, batch, *args: jnp.mean(jax.vmap(
        lambda e: with_target(p, e, *args))(batch))
      (_, same), _ = per_example.as_value_and_grad(over_batch)(*args)
      of_one = lambda p, e: with_target(p, e, target, temperature, 'squared')
      return (grads, again, moments, same, squares, gram, combine(np.ones(N)),
              reference.gradients(of_one, params, batch))

    grads, again, moments, same, squares, gram, total, expected = run(
      PARAMS, BATCH, target, temperature)
    part = reference.Truth(*expected)
    for tree in (grads, again):
      part.check_sum(jax.tree.leaves(tree), np.full(N, 1 / N))
    part.check_sum(jax.tree.leaves(total), np.ones(N))
    part.check_moments(moments)
    part.check_moments(same)
    part.check_squares(squares)
    part.check_gram(gram)

  @parameterized.parameters(({},), ({'n': np.arange(3)},))
  def test_no_parameter_has_a_gradient(self, params):
    for groups, lead in ((None, ()), (gradiv.by_layer, (len(params),))):
      of = lambda make, groups=groups: jax.eval_shape(lambda: make(
        lambda p, e: jnp.sum(e['y']), groups=groups)(params, BATCH))
      self.assertEqual(of(per_example.example_moments)[2][3].shape, lead)
      self.assertEqual(of(per_example.example_sq_norms)[1].shape, (*lead, N))
      self.assertEqual(of(per_example.example_gram)[1].shape, (*lead, N, N))

  @parameterized.parameters(np.nan, np.inf)
  def test_an_example_that_is_not_finite_can_be_left_out(self, bad):
    batch = {'x': BATCH['x'].copy(), 'y': BATCH['y']}
    batch['x'][2, 0, 0] = bad
    batch['y'] = np.where(np.arange(N)[:, None] == 4, bad, batch['y'])
    keep = ~np.isin(np.arange(N), (2, 4))
    weights = reference.weights_of(N) * keep

    @reference.quick_jit
    def run(params, batch):
      _, squares, combine = per_example.example_sq_norms(loss_fn)(params, batch)
      _, gram, of_gram = per_example.example_gram(loss_fn)(params, batch)
      results = per_example.example_moments(loss_fn)(params, batch, mask=keep)
      return squares, gram, combine(weights), of_gram(weights), results

    squares, gram, *sums, (_, grads, moments) = run(PARAMS, batch)
    part = truth().of(np.flatnonzero(keep))
    part.check_squares(squares[keep])
    part.check_gram(gram[keep][:, keep])
    # Through tanh an infinite input may well have a finite gradient.
    self.assertFalse(np.isfinite(squares[4]))
    for total in sums:
      assert_equal(total, summed(weights))
    part.check_sum(jax.tree.leaves(grads), np.full(part.n, 1 / part.n))
    part.check_moments(moments)

  @parameterized.parameters('typed', 'raw')
  def test_a_random_key_for_each_example(self, kind):
    keys = jax.random.split(jax.random.key(0), N)
    keys = keys if kind == 'typed' else jax.random.key_data(keys)

    def dropped(params, example):
      keep = jax.random.bernoulli(example['key'], 0.5, (2, 4))
      return loss_fn(params, {'x': jnp.where(keep, example['x'], 0),
                              'y': example['y']})

    reference.check(dropped, PARAMS, BATCH | {'key': keys})

  def test_prints_once_for_each_example(self):
    seen = []

    def printing(params, example):
      jax.debug.callback(lambda y: seen.append(float(y)), example['y'][0])
      return loss_fn(params, example)

    one_by_one = functools.partial(
      per_example.example_sq_norms, microbatch_size=1)
    for make in (per_example.example_moments, per_example.example_sq_norms,
                 one_by_one, per_example.example_gram):
      seen.clear()

      def run(params, batch, make=make):
        _, statistic, last = make(printing)(params, batch)
        return last(jnp.ones(N)) if callable(last) else statistic

      jax.block_until_ready(jax.jit(run)(PARAMS, BATCH))
      jax.effects_barrier()
      np.testing.assert_allclose(sorted(seen), np.sort(BATCH['y'][:, 0]), 1e-6)

  def test_lanes_of_parameters(self):
    """Nested in vmap, over networks that train side by side."""
    lanes = jax.tree.map(lambda x: np.stack([x, 0.5 * x, -x]), PARAMS)

    @reference.quick_jit
    def run(lanes, batch):
      of_lane = lambda p: (
        per_example.example_moments(loss_fn)(p, batch)[1:],
        per_example.example_gram(loss_fn)(p, batch)[1])
      return jax.vmap(of_lane)(lanes), jax.vmap(
        lambda p: reference.gradients(loss_fn, p, batch))(lanes)

    ((grads, moments), gram), expected = run(lanes, BATCH)
    for k in range(3):
      mine = lambda tree, k=k: jax.tree.map(lambda x: x[k], tree)
      part = reference.Truth(*mine(expected))
      part.check_sum(jax.tree.leaves(mine(grads)), np.full(N, 1 / N))
      part.check_moments(mine(moments))
      part.check_gram(gram[k])

  def test_a_loss_that_closes_over_what_is_traced(self):
    """A shift of the weights, a scalar that multiplies, and a random key."""
    def run(batch, shift, scale, key):
      def closed(params, example):
        noise = jax.random.normal(key, (2, 4))
        params = {'in': params['in'], 'out': {'w': params['out']['w'] + shift}}
        return scale * loss_fn(
          params, {'x': example['x'] + noise, 'y': example['y']})

      with reference.little_room():
        _, squares, combine = per_example.example_sq_norms(closed)(
          PARAMS, batch)
        _, gram, _ = per_example.example_gram(closed)(PARAMS, batch)
      loss, grads, moments = per_example.example_moments(closed)(PARAMS, batch)
      return (loss, jax.tree.leaves(grads), moments, squares, gram,
              jax.tree.leaves(combine(reference.weights_of(N))),
              reference.gradients(closed, PARAMS, batch))

    loss, grads, moments, squares, gram, total, expected = (
      reference.quick_jit(run)(
        BATCH, np.float32(0.3), np.float32(-2), jax.random.key(1)))
    part = reference.Truth(*expected)
    part.check_mean_loss(loss)
    part.check_sum(grads, np.full(N, 1 / N))
    part.check_sum(total, reference.weights_of(N))
    part.check_moments(moments)
    part.check_squares(squares)
    part.check_gram(gram)


if __name__ == '__main__':
  absltest.main()
