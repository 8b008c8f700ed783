"""Ten steps with a donated state, straight from `init`; one compilation."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from tests.contract import drive, table


class DonationTest(parameterized.TestCase):

  @parameterized.named_parameters(*table.named(table.FUNCTIONS))
  def test_ten_steps(self, row):
    self.check(row)

  @parameterized.named_parameters(*table.named(
    [row for row in table.TABLE if row not in table.FUNCTIONS]))
  @pytest.mark.slow
  def test_ten_steps_of_every_row(self, row):
    self.check(row)

  def check(self, row):
    tx, traces, step = drive.program(row)
    params, grads = drive.params(), drive.gradients_of(row)
    state, moving = tx.init(params), jax.tree.map(jax.numpy.copy, params)
    if row.kind == 'own':
      state, moving = gradiv.replicate((state, moving), table.WORKERS)
    _, state, moving = step(grads, state, moving)
    seen = len(traces)
    for _ in range(9):
      updates, state, moving = step(grads, state, moving)
    self.assertLen(traces, seen)
    # What the caller holds is alive.
    for leaf in jax.tree.leaves((updates, params, grads, row.options)):
      if isinstance(leaf, jax.Array):
        self.assertFalse(leaf.is_deleted())
    jax.random.bits(table.KEY)
    for leaf in jax.tree.leaves(moving):
      self.assertTrue(np.isfinite(leaf).all())


if __name__ == '__main__':
  absltest.main()
