"""Leaves that no arithmetic fits are refused; trees without any are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from tests import helpers
from tests.contract import drive, table

# These move leaves and compute nothing with them.
MOVES = [row for row in table.TABLE if row.name.startswith('delay_')]
# Leaves them to the optimizer inside, which is optax's.
COMPUTES = [row for row in table.TABLE
            if row not in MOVES and row.name != 'skip_zero_updates']
MIXED = {'a': jax.ShapeDtypeStruct((3,), jnp.float32),
         'count': jax.ShapeDtypeStruct((3,), jnp.int32)}


class DtypesTest(parameterized.TestCase):

  def refuses(self, row):
    with self.assertRaisesRegex(ValueError, "'count'. has dtype int32: must"):
      drive.trace(row, row.make(), MIXED)

  @parameterized.named_parameters(*table.named(
    [row for row in COMPUTES if row in table.FUNCTIONS]))
  def test_an_integer_leaf_is_refused_by_its_name(self, row):
    self.refuses(row)

  @parameterized.named_parameters(*table.named(
    [row for row in COMPUTES if row not in table.FUNCTIONS]))
  @pytest.mark.slow
  def test_so_does_every_row(self, row):
    self.refuses(row)

  @parameterized.parameters('params', 'update')
  def test_mixing_takes_integers_neither_to_move_nor_as_moves(self, which):
    tx, whole = gradiv.mix_by_gossip(table.RING, 'workers'), jnp.arange(8)
    given = {'params': jnp.ones(8), 'update': jnp.ones(8)} | {which: whole}
    with self.assertRaisesRegex(ValueError, f'{which} has dtype int32: must'):
      jax.vmap(lambda params, update: tx.update(
        update, tx.init(params), params), axis_name='workers')(*given.values())

  @parameterized.named_parameters(*table.named(MOVES))
  def test_what_only_moves_leaves_keeps_integers(self, row):
    _, updates, _ = drive.trace(row, row.make(), MIXED)
    self.assertEqual(updates['count'].dtype, jnp.int32)

  @parameterized.named_parameters(*table.named())
  @pytest.mark.slow
  def test_a_complex_leaf_is_refused_or_stays_complex(self, row):
    tree = {'a': jax.ShapeDtypeStruct((3,), jnp.complex64)}
    try:
      _, updates, _ = drive.trace(row, row.make(), tree)
    except ValueError as error:
      self.assertRegex(str(error), "'a'. has dtype complex64: must be")
    else:
      self.assertEqual(updates['a'].dtype, jnp.complex64)

  def test_the_mean_of_complex_gradients(self):
    grads = jnp.array([1 + 2j, 3 - 4j, jnp.nan + 0j])
    tx = gradiv.aggregate_by_mean('workers')
    mean, state = jax.vmap(
      lambda g: tx.update(g, tx.init(g)), axis_name='workers',
      out_axes=None)(grads)
    self.assertEqual(mean, 2 - 1j)
    self.assertEqual(state.num_left_out, 1)

  @parameterized.named_parameters(*table.named())
  @pytest.mark.slow
  def test_a_tree_without_leaves_has_an_update_without_leaves(self, row):
    _, updates, _ = drive.trace(row, row.make(), {})
    self.assertEqual(updates, {})

  @parameterized.named_parameters(*table.named())
  @pytest.mark.slow
  def test_a_tree_without_leaves_is_trained_for_two_steps(self, row):
    tx = row.make()
    step, begin = drive.step_of(row, tx), drive.start(row, tx, {})
    run = lambda number, *args: step(*args)
    if row.kind != 'alone':  # the numbers say how many workers there are
      in_axes, out_axes = drive.axes_of(row)
      run = gradiv.map_workers(
        run, 'workers', in_axes=(0, *in_axes), out_axes=out_axes)
    run, state = jax.jit(run), begin
    for _ in range(2):
      updates, *state = run(jnp.arange(table.WORKERS), {}, *state)
      self.assertEqual(updates, {})
    self.assertEqual(drive.specs(tuple(state)), drive.specs(begin))

  def test_what_is_measured_of_no_leaves(self):
    def measure(number, weights):
      del number
      moments = functools.partial(
        gradiv.worker_moments, {}, 'workers', batch_size=1)
      return (moments(), moments(groups=gradiv.by_layer),
              gradiv.worker_gram({}, 'workers'),
              aggregation.combine({}, weights, 'workers'))

    whole, by_layer, gram, combined = helpers.on_workers(
      measure, jnp.arange(4), jnp.full(4, 0.25))
    self.assertEqual(whole.sq_norm_of_mean, 0)
    self.assertEqual(by_layer.sq_norm_of_mean.shape, (0,))
    track = gradiv.track_moments(groups=gradiv.by_layer)
    _, state = track.update({}, track.init({}), moments=by_layer)
    self.assertEqual(state.num_skipped, 1)
    np.testing.assert_array_equal(gram, np.zeros((4, 4)))
    self.assertEqual(combined, {})

  def test_weights_do_not_truncate_integers(self):
    combine = functools.partial(aggregation.combine, axis_name='workers')
    with self.assertRaisesRegex(ValueError, 'gradient has dtype int'):
      helpers.on_workers(combine, np.arange(4), jnp.full(4, 0.5))

  def test_a_python_number_is_no_gradient(self):
    with self.assertRaisesRegex(ValueError, "'b'. is 1.0: must be an array"):
      gradiv.drop_updates(0.5, key=table.KEY).update(
        {'b': 1.0}, gradiv.drop_updates(0.5, key=table.KEY).init({}))


if __name__ == '__main__':
  absltest.main()
