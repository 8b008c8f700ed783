"""States and updates keep their shapes and dtypes, whatever the tree is."""

import jax
import jax.numpy as jnp
import optax
import pytest
from absl.testing import absltest, parameterized

from tests import helpers
from tests.contract import drive, table


class TracesTest(parameterized.TestCase):

  def check(self, row, tree):
    """Trace a step: a scan can carry the state, a program is not retraced."""
    state, updates, after = drive.trace(row, row.make(), tree)
    self.assertEqual(drive.specs(after), drive.specs(state))
    strong = lambda x: (x.shape, x.dtype)
    self.assertEqual(jax.tree.map(strong, updates), jax.tree.map(strong, tree))

  # In float32, other tests see values. A formula sees float32 alone, but where
  # it has a state, float64 could get into that.
  @parameterized.named_parameters(*table.named(
    [row for row in table.TABLE
     if not row.formula_only or 'num_workers' in row.options]))
  def test_keeps_structure_shapes_and_dtypes(self, row):
    if not row.formula_only:
      self.check(row, drive.params(jnp.bfloat16))
    with helpers.double_precision():
      self.check(row, drive.params(jnp.float64))

  @parameterized.named_parameters(*table.named())
  @pytest.mark.slow
  def test_so_it_does_in_every_dtype(self, row):
    for dtype in (jnp.bfloat16, jnp.float16):
      self.check(row, drive.params(dtype))
    with helpers.double_precision():
      self.check(row, drive.params(jnp.float64))

  @parameterized.named_parameters(*table.named(table.DISTINCT))
  def test_takes_trees_with_no_leaf_and_with_one(self, row):
    self.check(row, {'none': None, 'empty': (), 'mask': optax.MaskedNode()})
    self.check(row, jnp.ones(()))

  # What differs by worker without asking which it is needs no axis.
  @parameterized.named_parameters(*table.named(
    [row for row in table.DISTINCT if row.kind != 'alone' and row.name not in (
      'delay_drawn', 'feedback_of_top_k')]))
  def test_without_workers_the_name_fails(self, row):
    tx, params = row.make(), drive.params()
    with self.assertRaisesRegex(
        ValueError, "axis_name='workers'.*map_workers"):
      jax.eval_shape(tx.update, params, tx.init(params), params)


if __name__ == '__main__':
  absltest.main()
