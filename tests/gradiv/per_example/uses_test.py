"""Uses of per-example statistics: clipping, weighting, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import per_example, weightings
from tests.gradiv.per_example import reference
from tests.gradiv.per_example.two_layers import (
  BATCH,
  DRAW,
  MOST,
  PARAMS,
  RNG,
  N,
  assert_equal,
  loss_fn,
  mean_loss,
  summed,
  truth,
  written_out,
)


class UsesTest(parameterized.TestCase):

  def test_clipping_each_gradient(self):
    @reference.quick_jit
    def clipped(params, batch):
      _, squares, combine = per_example.example_sq_norms(loss_fn)(params, batch)
      return combine(jnp.minimum(1, MOST * jax.lax.rsqrt(squares)) / N)

    norms = np.linalg.norm(truth().rows, axis=1)
    factors = np.minimum(1, MOST / norms)
    self.assertBetween(np.sum(norms > MOST), 1, N - 1)
    assert_equal(clipped(PARAMS, BATCH), summed(factors / N))

  @parameterized.named_parameters(
    ('clipping', weightings.norm_clipping(8.)),
    ('pcgrad', weightings.pcgrad()))
  def test_weightings_act_on_examples(self, weighting):
    self.check_weighting(weighting)

  @parameterized.named_parameters(
    ('agreement', weightings.agreement(0.9)),
    ('krum', weightings.krum(1)),
    ('geometric_median', weightings.geometric_median()))
  @pytest.mark.slow
  def test_so_do_further_ones(self, weighting):
    self.check_weighting(weighting)

  def check_weighting(self, weighting):
    rows = truth().rows

    @reference.quick_jit
    def both(params, batch, gram):
      _, own, combine = per_example.example_gram(loss_fn)(params, batch)
      weights = weighting(own, key=jax.random.key(0))
      return weights, combine(weights), weighting(gram, key=jax.random.key(0))

    weights, total, expected = both(
      PARAMS, BATCH, np.float32(rows @ rows.T))
    np.testing.assert_allclose(weights, expected, 1e-3, 1e-4)
    assert_equal(total, summed(weights))
    self.assertGreater(np.ptp(weights), 0)

  @parameterized.parameters(
    (per_example.example_sq_norms, {}),
    (per_example.example_sq_norms, {'microbatch_size': 1}),
    (per_example.example_gram, {}))
  def test_combine_leaves_one_program_and_enters_another(self, make, options):
    """Also where it computes anew, of a loss that closes over traced values."""
    def of_batch(params, batch, shift):
      # Behind sin, one large leaf falls back.
      closed = lambda p, e: loss_fn(p, e) + jnp.sum(
        jnp.sin(shift * p['s'] * e['y'][None]))
      with reference.little_room():
        return make(closed, **options)(params, batch)[2]

    params = PARAMS | {'s': DRAW(40, 3)}
    y = BATCH['y'][:, None]
    rows = 2 * y * np.cos(2 * params['s'] * y)
    combine = reference.quick_jit(of_batch)(params, BATCH, np.float32(2))
    later = reference.quick_jit(lambda combine, weights: combine(weights))
    for weights in (np.ones(N), reference.weights_of(N)):
      total = later(combine, np.float32(weights))
      assert_equal({k: total[k] for k in PARAMS}, summed(weights))
      assert_equal(total['s'], np.tensordot(weights, rows, 1))

  @parameterized.parameters(None, gradiv.by_layer)
  def test_norms_in_microbatches(self, groups):
    """Which `combine` passes through again, one at a time."""
    six = jax.tree.map(lambda x: x[:6], BATCH)
    mask = np.arange(6) != 3
    shape = (2, 6) if groups else (6,)
    weights = np.float32(RNG.normal(size=shape))

    def run(size):
      def of(params, batch):
        (losses, aux), squares, combine = per_example.example_sq_norms(
          lambda p, e: (loss_fn(p, e), e['y']), has_aux=True, groups=groups,
          microbatch_size=size)(params, batch, mask=mask)
        return losses, aux, squares, combine(weights)
      return reference.quick_jit(of)(PARAMS, six)

    at_once, in_pairs = run(None), run(2)
    for whole, cut in zip(*map(jax.tree.leaves, (at_once, in_pairs))):
      assert_equal(cut, whole)
    self.assertEqual(in_pairs[2].shape, shape)

  def test_microbatches_bound_the_memory_of_norms_and_combine(self):
    """Four examples at once take a fraction of what all 64 take."""
    def loss_fn(w, x):
      return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))

    def temporaries(size):
      @reference.quick_jit
      def clipped(w, x):
        _, squares, combine = per_example.example_sq_norms(
          loss_fn, microbatch_size=size)(w, x)
        return combine(1 / squares)
      shapes = [jax.ShapeDtypeStruct(s, np.float32)
                for s in ((32, 32), (64, 128, 32))]
      return clipped.lower(*shapes).compile().memory_analysis()

    whole, cut = (temporaries(size).temp_size_in_bytes for size in (None, 4))
    self.assertLess(cut, whole / 4)

  def test_one_layer_clipped_alone(self):
    """Norms by layer, and weights by layer, stacked by name."""
    self.assertEqual(
      gradiv.group_names(PARAMS, gradiv.by_layer), ('in', 'out'))

    @reference.quick_jit
    def clipped(params, batch):
      _, squares, combine = per_example.example_sq_norms(
        loss_fn, groups=gradiv.by_layer)(params, batch)
      return squares, combine(jnp.stack([
        jnp.minimum(1, jax.lax.rsqrt(squares[0])), jnp.zeros(N)]))

    squares, total = clipped(PARAMS, BATCH)
    of_in = sum(np.square(np.float64(g).reshape(N, -1)).sum(1)
                for g in written_out()['in'].values())
    np.testing.assert_allclose(squares[0], of_in, 1e-5)
    assert_equal(total['in'], summed(np.minimum(1, of_in**-0.5))['in'])
    np.testing.assert_array_equal(total['out']['w'], 0)

  @pytest.mark.slow
  def test_a_group_without_a_gradient_counts_as_zero(self):
    """It keeps its place, as `group_names` lists it."""
    params = {'count': {'n': np.arange(2)}, **PARAMS}
    of = lambda make: make(loss_fn, groups=gradiv.by_layer)(params, BATCH)
    self.assertEqual(gradiv.group_names(params, gradiv.by_layer),
                     ('count', 'in', 'out'))
    _, _, moments = of(per_example.example_moments)
    _, squares, combine = of(per_example.example_sq_norms)
    _, gram, _ = of(per_example.example_gram)
    for shape, found in (((3,), moments.mean_sq_deviation), ((3, N), squares),
                         ((3, N, N), gram)):
      self.assertEqual(found.shape, shape)
      np.testing.assert_array_equal(found[0], 0)
      self.assertTrue(np.all(np.diagonal(np.atleast_2d(found[1])) != 0))
    total = combine(jnp.ones((3, N)))
    assert_equal(total['out'], summed(np.ones(N))['out'])

  @parameterized.parameters(False, True)
  def test_in_place_of_value_and_grad(self, has_aux):
    def over_batch(params, batch, scale):
      loss = scale * mean_loss(params, batch)
      return (loss, batch['y'] + 1) if has_aux else loss

    @reference.quick_jit
    def both(params, batch):
      own, grads = per_example.as_value_and_grad(over_batch, has_aux=has_aux)(
        params, batch, 1.)
      return own, grads, jax.value_and_grad(over_batch, has_aux=has_aux)(
        params, batch, 1.)

    (loss, moments), grads, (value, expected) = both(PARAMS, BATCH)
    if has_aux:
      moments, aux = moments
      value, all_aux = value
      np.testing.assert_array_equal(aux, all_aux[:, None])
    np.testing.assert_allclose(loss, value, 1e-6)
    assert_equal(grads, expected)
    truth().check_moments(moments)

  def test_estimate_from_moments(self):
    """All examples there are: then ‖∇F‖² and tr Σ are exactly those."""
    _, _, moments = reference.quick_jit(
      per_example.example_moments(loss_fn))(PARAMS, BATCH)
    estimate = gradiv.estimate(moments, num_examples=N)
    rows = truth().rows
    np.testing.assert_allclose(
      estimate.sq_norm, np.sum(rows.mean(0)**2), 1e-5)
    np.testing.assert_allclose(
      estimate.variance, np.sum(rows.var(0)), 1e-5)

  def test_training_in_a_loop(self):
    tx = optax.adam(0.01)
    of_batch = per_example.example_moments(loss_fn)

    def train(grad_fn):
      def step(carry, _):
        params, state = carry
        grads = grad_fn(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

      return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), length=5)[0][0]

    own, expected = reference.quick_jit(lambda: (
      train(lambda p: of_batch(p, BATCH)[1]),
      train(lambda p: jax.grad(mean_loss)(p, BATCH))))()
    assert_equal(own, expected)


if __name__ == '__main__':
  absltest.main()
