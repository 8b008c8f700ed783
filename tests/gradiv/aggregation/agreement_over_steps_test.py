"""Micro-steps on one device are filtered as workers are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from tests import helpers

RNG = np.random.default_rng(7)
STREAMED = tuple(c for c in weightings.COMBINE if c != 'leave_one_out')

def gradients(workers=8, dim=50, lean=0.4, dtype=jnp.float32):
  """Noise around a common direction, as a tree."""
  common = RNG.normal(size=dim)
  rows = lean * common + RNG.normal(size=(workers, dim))
  return {'kernel': jnp.asarray(rows[:, :40].reshape(-1, 8, 5), dtype),
          'bias': jnp.asarray(rows[:, 40:], dtype)}


def row(tree, i):
  return jax.tree.map(lambda x: x[i], tree)

def by_workers(grads, tx):
  return helpers.step_of(tx)(grads, tx.init(row(grads, 0)))

class AccumulateTest(parameterized.TestCase):
  """Micro-steps on one device decide and average as workers do."""

  @parameterized.product(combine=STREAMED, count_aware=(False, True),
                         dtype=(jnp.float32, jnp.bfloat16))
  @pytest.mark.slow
  def test_equals_the_workers(self, combine, count_aware, dtype):
    options = dict(combine=combine, count_aware=count_aware)
    tx = gradiv.accumulate_by_agreement(
      0.9, num_micro_steps=8, **options)
    workers = gradiv.aggregate_by_agreement(0.9, 'workers', **options)
    update, agreed = jax.jit(tx.update), set()
    state = tx.init(row(gradients(dtype=dtype), 0))
    for lean in (0., 0.2, 0.4, 3.):
      grads = gradients(lean=lean, dtype=dtype)
      for i in range(8):
        self.assertFalse(bool(state.ready) and i > 0)
        result, state = update(row(grads, i), state)
        if i < 7:
          for leaf in jax.tree.leaves(result):
            np.testing.assert_array_equal(leaf, 0)
      expected, wanted = by_workers(grads, workers)
      self.assertEqual(bool(state.ready), bool(wanted.ready))
      # An anchor that nobody joins is one of one, and weighs nothing.
      self.assertEqual(int(state.num_agreed), max(1, int(wanted.num_agreed)))
      rtol = 1e-5 if dtype == jnp.float32 else 0.01
      helpers.assert_close(result, expected, rtol, of_largest=rtol)
      agreed.add(int(state.num_agreed))
    self.assertGreater(len(agreed), 1)
    self.assertEqual(int(state.count), 4)

  def test_leaves_out_what_is_not_finite(self):
    grads = gradients(lean=3.)
    grads['bias'] = grads['bias'].at[0, 2].set(jnp.nan).at[3, 0].set(jnp.inf)
    tx = gradiv.accumulate_by_agreement(1., num_micro_steps=8)
    state, update = tx.init(row(grads, 0)), jax.jit(tx.update)
    for i in range(8):
      result, state = update(row(grads, i), state)
    expected, wanted = by_workers(
      grads, gradiv.aggregate_by_agreement(1., 'workers'))
    helpers.assert_close(result, expected, 1e-5, of_largest=1e-5)
    self.assertEqual(int(state.num_left_out), 2)
    self.assertEqual(int(wanted.num_left_out), 2)

  def test_nothing_agrees_counts_as_empty_and_moves_nothing(self):
    tx = optax.chain(
      gradiv.accumulate_by_agreement(0.5, num_micro_steps=2),
      gradiv.skip_zero_updates(optax.adamw(0.1, weight_decay=0.1)))
    params = jnp.ones(2)
    state, update = tx.init(params), jax.jit(tx.update)
    for g in ([1., 0.], [-1., 0.]):
      updates, state = update(jnp.array(g), state, params)
      np.testing.assert_array_equal(updates, 0)
    self.assertEqual(int(optax.tree.get(state, 'num_empty')), 1)
    self.assertEqual(int(state[1][0].count), 0)  # Adam's

  def test_threshold_is_a_schedule_of_rounds(self):
    tx = gradiv.accumulate_by_agreement(
      lambda count: jnp.where(count < 1, 2., 0.1), num_micro_steps=2)
    state, ready, update = tx.init(jnp.zeros(2)), [], jax.jit(tx.update)
    for g in ([1., 0.], [0., 1.]) * 2:
      _, state = update(jnp.array(g), state)
      ready.append(bool(state.ready))
    self.assertEqual(ready, [False, True, False, False])

  def test_memory_of_one_gradient_more(self):
    grads = jax.ShapeDtypeStruct((300_000,), jnp.float32)
    # Earlier than 0.10, XLA keeps a little more.
    limit = 4.04 if jax.__version_info__ >= (0, 10) else 4.2
    for combine, trees in (('running_mean', 1), ('halving', 1), ('first', 2)):
      tx = gradiv.accumulate_by_agreement(1., 4, combine=combine)
      state = jax.eval_shape(tx.init, grads)
      size = sum(x.size for x in jax.tree.leaves(state))
      self.assertBetween(size, trees * grads.size, trees * grads.size + 20)
      program = jax.jit(tx.update, donate_argnums=1).lower(
        grads, state).compile()
      self.assertLess(
        program.memory_analysis().temp_size_in_bytes, limit * grads.size)

  @parameterized.parameters(
    (dict(combine='leave_one_out'), 'combine'),
    (dict(num_micro_steps=0), 'num_micro_steps'),
    (dict(max_cosine_distance=3.), 'max_cosine_distance'),
    (dict(min_agreed=0), 'min_agreed'),
  )
  def test_arguments_are_checked_at_construction(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.accumulate_by_agreement(
        **dict(max_cosine_distance=1., num_micro_steps=2) | options)


if __name__ == '__main__':
  absltest.main()
