"""What a compressor leaves out is kept, and sent later."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

RNG = np.random.default_rng(15)
KEY = jax.random.key(8)
WORKERS = 4
COMPRESSORS = (
  ('top_k', lambda: gradiv.keep_top_k(0.2)),
  ('signs', gradiv.keep_signs),
  ('low_rank', lambda: gradiv.aggregate_by_low_rank(
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

  def test_on_a_wire_it_holds_of_the_means(self):
    tx = gradiv.with_error_feedback(gradiv.aggregate_by_low_rank(
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
    # What is averaged as it is, is sent.
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
    # What drifts would have grown fourfold.
    self.assertLess(seen[-1], 2 * seen[0] + 1)

  def test_errors_of_bfloat16_are_kept_in_float32(self):
    tx = gradiv.with_error_feedback(gradiv.keep_signs())
    grads = sample(jnp.bfloat16)
    sent, state = stepper(tx)(grads, start(tx, grads))
    self.assertEqual(sent['bias'].dtype, jnp.bfloat16)
    self.assertEqual(state.error['bias'].dtype, jnp.float32)

  def test_a_gradient_that_is_not_finite_is_handed_on(self):
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

  @parameterized.parameters('pmap', 'shard_map')
  def test_backends_agree(self, backend):
    for _, make in COMPRESSORS:
      tx = gradiv.with_error_feedback(make())
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
    centres = jnp.float32(np.random.default_rng(0).normal(
      0.5, 2, (WORKERS, 5, 6)))
    best = np.asarray(centres).mean(0)

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

      found = gradiv.map_workers(train, 'workers', out_axes=None)(centres)
      return float(jnp.linalg.norm(found - best) / np.linalg.norm(best))

    # To within what is proportional to the rate.
    self.assertLess(distance(gradiv.with_error_feedback(make())), 0.02)
    if 'low_rank' not in self.id():  # whose iteration finds the rest, too
      self.assertGreater(distance(make()), 0.2)


class CompressorTest(parameterized.TestCase):

  def test_top_k(self):
    v = jnp.float32(RNG.normal(size=(5, 8)))
    kept, _ = gradiv.keep_top_k(0.1).update(v, optax.EmptyState())
    self.assertEqual(int((kept != 0).sum()), 4)
    cut = np.sort(np.abs(v).ravel())[-4]
    np.testing.assert_array_equal(kept, np.where(np.abs(v) >= cut, v, 0))
    error = np.sum((v - kept)**2) / np.sum(v**2)
    self.assertLess(error, 1 - 4 / 40)
    # Ties are cut as well; all of 1.0; one at least.
    ones = gradiv.keep_top_k(0.25).update(jnp.ones(8), optax.EmptyState())[0]
    self.assertEqual(ones.sum(), 2)
    for share, count in ((1., 8), (1e-6, 1), (0.07, 1)):
      tx = gradiv.keep_top_k(share)
      self.assertEqual(
        (tx.update(jnp.ones(8), optax.EmptyState())[0] != 0).sum(), count)
    # 0.07 · 100 is a little more than 7.
    kept = gradiv.keep_top_k(0.07).update(jnp.ones(100), optax.EmptyState())
    self.assertEqual(kept[0].sum(), 7)

  def test_signs(self):
    v = jnp.float32(RNG.normal(size=40))
    signs, _ = gradiv.keep_signs().update(v, optax.EmptyState())
    np.testing.assert_allclose(
      np.sum((v - signs)**2),
      np.sum(v**2) - np.abs(v).sum()**2 / 40, 1e-5)

  @parameterized.parameters(0., 1.1, float('nan'))
  def test_bad_share(self, share):
    with self.assertRaisesRegex(ValueError, f'share={share}'):
      gradiv.keep_top_k(share)


class LowRankTest(parameterized.TestCase):

  def run_steps(self, grads, rank, steps=1):
    tx = gradiv.aggregate_by_low_rank(rank, 'workers', key=KEY)
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    step = helpers.step_of(tx)
    for _ in range(steps):
      update, state = step(grads, state)
    return update, state

  def test_exact_where_the_mean_is_of_that_rank(self):
    left, right = RNG.normal(size=(3, 30, 2)), RNG.normal(size=(2, 20))
    grads = {'w': jnp.float32(left @ right).reshape(3, 5, 6, 20),
             'bias': jnp.float32(RNG.normal(size=(3, 20)))}
    update, _ = self.run_steps(grads, 2)
    helpers.assert_close(
      update, jax.tree.map(lambda g: g.mean(0), grads), 1e-4, 1e-5)

  def test_repeated_it_finds_the_best_of_its_rank(self):
    mean = RNG.normal(size=(12, 10)) @ np.diag(2.0 ** -np.arange(10))
    grads = {'w': jnp.float32(np.stack([mean + 1, mean - 1]))}
    u, s, v = np.linalg.svd(mean)
    best = u[:, :2] * s[:2] @ v[:2]
    update, state = self.run_steps(grads, 2, steps=30)
    np.testing.assert_allclose(update['w'], best, atol=1e-3)
    self.assertEqual(state.factors['w'].shape, (10, 2))

  def test_small_leaves_are_averaged_and_zeros_are_no_end(self):
    grads = {'thin': jnp.float32(RNG.normal(size=(2, 30, 2))),
             'w': jnp.zeros((2, 9, 9))}
    update, state = self.run_steps(grads, 2)
    np.testing.assert_allclose(update['thin'], grads['thin'].mean(0), 1e-5)
    np.testing.assert_array_equal(update['w'], 0)
    self.assertEqual(state.factors['thin'].shape, (0, 0))
    tx = gradiv.aggregate_by_low_rank(2, 'workers', key=KEY)
    one = {'thin': grads['thin'], 'w': jnp.ones((2, 9, 9))}
    state = helpers.step_of(tx)(one, state)[1]
    update, _ = helpers.step_of(tx)(one, state)
    np.testing.assert_allclose(update['w'], 1, 1e-4)

  def test_leaves_out_what_is_not_finite(self):
    grads = {'w': jnp.ones((3, 9, 9)).at[1, 2, 2].set(jnp.nan)}
    update, state = self.run_steps(grads, 1)
    self.assertEqual(state.num_left_out, 1)
    np.testing.assert_allclose(update['w'], 1, 1e-4)

  def test_bad_rank(self):
    with self.assertRaisesRegex(ValueError, 'rank=0'):
      gradiv.aggregate_by_low_rank(0, 'workers', key=KEY)


if __name__ == '__main__':
  absltest.main()
