"""GradDrop draws one sign at a time, in proportion."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from gradiv import aggregation
from tests import helpers


class SignDropoutTest(parameterized.TestCase):

  def test_one_sign_is_kept_at_a_time_in_proportion(self):
    rows = np.random.default_rng(0).normal(size=(4, 60)).astype('f')
    rows[:, 0] = np.abs(rows[:, 0])
    rows[:, 1] = 0
    tx = aggregation.aggregate_by_sign_dropout('workers', key=jax.random.key(1))
    step = helpers.step_of(tx)
    state, seen = tx.init(rows[0]), []
    for _ in range(600):
      update, state = step(rows, state)
      seen.append(np.asarray(update))
    seen = np.stack(seen)
    up, down = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
    near = lambda x: np.isclose(seen, x, 1e-5, 1e-6)
    self.assertTrue((near(up) | near(down)).all())
    chance = (1 + rows.sum(0) / np.where(
      rows.any(0), np.abs(rows).sum(0), 1)) / 2
    drawn = (near(up) & (up != 0)).mean(0)
    sure = (up == 0) | (down == 0)
    np.testing.assert_array_equal(drawn[sure], (up > 0)[sure])
    # Where both are drawn often enough for the errors to be normal.
    open_ = (chance > 0.05) & (chance < 0.95) & ~sure
    error = np.sqrt(chance * (1 - chance) / 600)
    self.assertLess(np.max(np.abs(drawn - chance)[open_] / error[open_]), 4.5)
    helpers.assert_mean(
      seen[:, open_], (chance * up + (1 - chance) * down)[open_])

  def test_workers_and_steps_draw_apart(self):
    grads = np.tile(np.float32([[1.], [-1.]]), (1, 1000))
    tx = aggregation.aggregate_by_sign_dropout('workers', key=jax.random.key(1))
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(grads[0]))
    halves = np.asarray(update)[:500], np.asarray(update)[500:]
    self.assertLess(abs(np.mean(halves[0] * halves[1])), 0.2)
    again, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, state)
    self.assertLess(abs(np.mean(np.asarray(update) * again)), 0.2)


if __name__ == '__main__':
  absltest.main()
