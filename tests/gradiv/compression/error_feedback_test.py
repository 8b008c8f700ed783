"""The part that a compressor leaves out is kept, and sent later."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import compression
from tests import helpers

RNG = np.random.default_rng(15)
KEY = jax.random.key(8)
WORKERS = 4
COMPRESSORS = (
  ('top_k', lambda: gradiv.keep_top_k(0.2)),
  ('signs', gradiv.keep_signs),
  ('low_rank', lambda: compression.aggregate_by_low_rank(
    2, 'workers', key=KEY)),
  ('one_level', lambda: gradiv.quantize_updates(
    1, key=KEY, axis_name='workers', method='max')),
)


def sample(dtype=jnp.float32):
  draw = lambda *shape: jnp.asarray(
    RNG.normal(0.2, 1, (WORKERS, *shape)), dtype)
  return {'kernel': draw(3, 4, 6), 'bias': draw(6), 'none': None,
          'empty': draw(0, 2)}


def stepper(tx):
  return gradiv.map_workers(lambda g, s: tx.update(g, s), 'workers')


def start(tx, grads):
  return gradiv.replicate(
    tx.init(jax.tree.map(lambda g: g[0], grads)), WORKERS)


class InvariantTest(parameterized.TestCase):

  @parameterized.named_parameters(
    *(row for row in COMPRESSORS if row[0] != 'low_rank'))
  def test_what_is_sent_is_compressed_and_the_rest_is_kept(self, make):
    compressor = make()
    tx, inner = gradiv.with_error_feedback(compressor), stepper(compressor)
    step, state = stepper(tx), None
    given = sent_so_far = 0.
    for _ in range(6):
      grads = sample()
      state = start(tx, grads) if state is None else state
      total = jax.tree.map(jnp.add, grads, state.error)
      expected, _ = inner(total, state.inner)
      sent, state = step(grads, state)
      helpers.assert_close(sent, expected, 1e-5, 1e-6)
      helpers.assert_close(
        total, jax.tree.map(jnp.add, sent, state.error), 1e-5, 1e-6)
      given += np.asarray(grads['kernel'], np.float64)
      sent_so_far += np.asarray(sent['kernel'], np.float64)
    np.testing.assert_allclose(
      given, sent_so_far + state.error['kernel'], 1e-5, 1e-5)
    self.assertGreater(np.abs(state.error['kernel']).max(), 0.1)

  def test_low_rank_sends_and_keeps_the_mean(self):
    tx = gradiv.with_error_feedback(compression.aggregate_by_low_rank(
      2, 'workers', key=KEY))
    step, state = stepper(tx), start(tx, sample())
    mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
    for _ in range(4):
      grads = sample()
      total = jax.tree.map(jnp.add, grads, state.error)
      sent, state = step(grads, state)
      helpers.assert_close(
        mean(total), jax.tree.map(jnp.add, mean(sent), mean(state.error)),
        1e-4, 1e-5)
    # A small leaf is averaged as it is, so nothing is left.
    np.testing.assert_allclose(state.error['bias'], 0, atol=1e-6)
    helpers.assert_close(
      jax.tree.map(lambda x: x[1], sent), jax.tree.map(
        lambda x: x[0], sent), 0)

  @parameterized.named_parameters(*COMPRESSORS)
  def test_errors_stay_bounded_where_workers_differ(self, make):
    """Gradients that never change; their mean is short, their spread is not."""
    tx, grads = gradiv.with_error_feedback(make()), sample()
    grads = jax.tree.map(lambda g: g - g.mean(0, keepdims=True) + 1e-3, grads)

    def steps(g, s):
      return jax.lax.scan(lambda s, _: (tx.update(g, s)[1], None), s, None,
                          length=500)[0]

    run, state = gradiv.map_workers(steps, 'workers'), start(tx, grads)
    seen = []
    for _ in range(4):
      state = run(grads, state)
      seen.append(max(np.abs(leaf).max(initial=0)
                      for leaf in jax.tree.leaves(state.error)))
    # A drift would have grown fourfold.
    self.assertLess(seen[-1], 2 * seen[0] + 1)

  def test_errors_of_bfloat16_are_kept_in_float32(self):
    tx = gradiv.with_error_feedback(gradiv.keep_signs())
    grads = sample(jnp.bfloat16)
    sent, state = stepper(tx)(grads, start(tx, grads))
    self.assertEqual(sent['bias'].dtype, jnp.bfloat16)
    self.assertEqual(state.error['bias'].dtype, jnp.float32)

  def test_a_gradient_that_is_not_finite_is_passed_on(self):
    tx = optax.chain(gradiv.with_error_feedback(gradiv.keep_top_k(0.5)),
                     gradiv.aggregate_by_mean('workers'))
    step, grads = stepper(tx), sample()
    _, state = step(grads, start(tx, grads))
    bad = grads | {'bias': grads['bias'].at[1, 2].set(jnp.inf)}
    update, after = step(bad, state)
    self.assertEqual(after[1].num_left_out[0], 1)
    for leaf in jax.tree.leaves((update, after[0].error)):
      self.assertTrue(np.isfinite(leaf).all())
    helpers.assert_same(
      jax.tree.map(lambda x: x[1], after[0].error),
      jax.tree.map(lambda x: x[1], state[0].error))

  def test_vmap_refuses_a_common_state(self):
    tx = gradiv.with_error_feedback(gradiv.keep_top_k(0.5))
    grads = sample()
    mapped = gradiv.map_workers(
      lambda g, s: tx.update(g, s), 'workers', in_axes=(0, None),
      out_axes=(0, None))
    with self.assertRaises(ValueError):
      mapped(grads, tx.init(jax.tree.map(lambda g: g[0], grads)))

  def test_backends_agree(self):
    self.check_backend('shard_map')

  @pytest.mark.slow
  def test_so_does_pmap(self):
    self.check_backend('pmap')

  def check_backend(self, backend):
    for name in ('top_k', 'low_rank'):
      tx = gradiv.with_error_feedback(dict(COMPRESSORS)[name]())
      grads = sample()
      mapped = gradiv.map_workers(
        lambda g, s: tx.update(g, s), 'workers', backend=backend)
      helpers.assert_close(
        mapped(grads, start(tx, grads)),
        stepper(tx)(grads, start(tx, grads)), 1e-4, 1e-5)


class ConvergenceTest(parameterized.TestCase):

  @parameterized.named_parameters(*COMPRESSORS[:3])
  def test_reaches_the_optimum_where_the_compressor_alone_does_not(self, make):
    """Workers with optima of their own, exact gradients, f = ½‖w − c_i‖²."""
    centers = jnp.float32(np.random.default_rng(0).normal(
      0.5, 2, (WORKERS, 5, 6)))
    best = np.asarray(centers).mean(0)

    def distance(compressor):
      tx = optax.chain(compressor, gradiv.aggregate_by_mean('workers'),
                       optax.sgd(0.01))

      def train(c):
        def one(carry, _):
          w, state = carry
          updates, state = tx.update(w - c, state)
          return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros((5, 6))
        (w, _), _ = jax.lax.scan(one, (w, tx.init(w)), None, length=1500)
        return w

      found = gradiv.map_workers(train, 'workers', out_axes=None)(centers)
      return float(jnp.linalg.norm(found - best) / np.linalg.norm(best))

    # Up to an error proportional to the learning rate.
    self.assertLess(distance(gradiv.with_error_feedback(make())), 0.02)
    if 'low_rank' not in self.id():  # its iteration finds the rest, too
      self.assertGreater(distance(make()), 0.2)

class StateTest(parameterized.TestCase):

  def test_errors_are_laid_out_like_the_parameters(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(
      jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('model'))
    params = jax.device_put(jnp.ones((16, 2), jnp.bfloat16), sharding)
    state = gradiv.with_error_feedback(gradiv.keep_signs()).init(params)
    self.assertEqual(state.error.sharding, sharding)
    self.assertEqual(state.error.dtype, jnp.float32)

  def test_only_errors_count_as_parameters(self):
    params = jax.tree.map(lambda g: g[0], sample())
    tx = gradiv.with_error_feedback(
      compression.aggregate_by_low_rank(1, 'workers', key=KEY))
    state = tx.init(params)
    tagged = optax.tree_utils.tree_map_params(
      tx, lambda x, p: self.assertEqual(x.shape, p.shape), state, params,
      transform_non_params=lambda x: x)
    helpers.assert_same(tagged.inner, state.inner)


if __name__ == '__main__':
  absltest.main()
