"""optax's own wrappers compose with every transformation."""

import jax
import optax
import pytest
from absl.testing import absltest, parameterized

from tests.contract import drive, table

ROWS = table.FUNCTIONS
COMPOSING = [row for row in ROWS if row.composes]
# One in each place: for the wire, before it, of a worker's own, and alone.
PARTS = ('agreement_running_mean', 'track_moments', 'mix_by_gossip',
         'keep_top_k')
# optax.lookahead hands no extra arguments on.
WITHOUT_EXTRA_ARGUMENTS = [
  row for row in ROWS if row.kind == 'alone' and not row.needs(1.0)]


class WrappersTest(parameterized.TestCase):

  def check(self, row, tx, kind=None, tree=None):
    tree = drive.params() if tree is None else tree
    state, updates, after = drive.trace(row, tx, tree, kind)
    self.assertEqual(drive.specs(after), drive.specs(state))
    self.assertEqual(jax.tree.structure(updates), jax.tree.structure(tree))

  @parameterized.named_parameters(*table.named(ROWS))
  def test_multi_steps(self, row):
    around = optax.MultiSteps(
      optax.chain(row.make(), optax.adam(0.1)), every_k_schedule=2)
    # Itself it has no type that says that it hands extra arguments on.
    tx = optax.GradientTransformationExtraArgs(around.init, around.update)
    # It adds up each worker's own gradient.
    self.check(row, tx, kind='alone' if row.kind == 'alone' else 'own')

  @parameterized.named_parameters(*table.named(COMPOSING))
  def test_masked(self, row):
    large = lambda tree: jax.tree.map(lambda x: x.ndim > 0, tree)
    # Of the leaves that are masked, each worker's own gradient stays.
    tx = optax.masked(row.make(), large)
    self.check(row, tx, kind='before' if row.kind == 'wire' else None)

  # Each part of a partition is what `optax.masked` makes.
  @parameterized.named_parameters(*table.named(
    [row for row in COMPOSING if row.name in PARTS]))
  def test_partition_with_a_label_that_nothing_has(self, row):
    self.check_partition(row)

  @parameterized.named_parameters(*table.named(
    [row for row in COMPOSING if row.name not in PARTS]))
  @pytest.mark.slow
  def test_so_does_every_function_in_a_partition(self, row):
    self.check_partition(row)

  def check_partition(self, row):
    label = lambda tree: jax.tree_util.tree_map_with_path(
      lambda path, x: path[0].key, tree)
    self.check(row, optax.partition(
      {name: row.make() for name in ('layer', 'scale', 'nothing')}, label))

  @parameterized.named_parameters(*table.named(WITHOUT_EXTRA_ARGUMENTS))
  def test_lookahead(self, row):
    around = optax.lookahead(
      optax.chain(row.make(), optax.sgd(0.1)), sync_period=2,
      slow_step_size=0.5)
    tx = optax.GradientTransformation(
      around.init, lambda grads, state, params: around.update(
        grads.fast, state, params))
    pair = optax.LookaheadParams.init_synced(drive.params())
    self.check(row, tx, tree=pair)


if __name__ == '__main__':
  absltest.main()
