"""`optax.inject_hyperparams` wraps what has a number."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from absl.testing import absltest, parameterized

from tests import helpers
from tests.contract import drive, table

WITH_NUMBERS = tuple(row for row in table.TABLE if row.numbers)
SCHEDULED = table.first_of_each_function(
  [row for row in WITH_NUMBERS if not row.formula_only])
# A threshold, a count, a decay, a draw and a momentum, in each place.
SOME = ('agreement_running_mean', 'quantized_mean_8', 'sign_agreement',
        'track_moments', 'langevin_noise', 'mix_by_slow_momentum',
        'compensate_delay')


def inject(row, change):
  factory = optax.inject_hyperparams(row.factory, row.static_args())
  return factory(**row.arguments('workers'),
                 **{k: change(v) for k, v in row.numbers.items()})


def constant(value, count):
  return value + 0.0 * count


class InjectTest(parameterized.TestCase):

  @parameterized.named_parameters(*table.named(WITH_NUMBERS))
  def test_numbers(self, row):
    tx = inject(row, float)
    state, _, after = drive.trace(row, tx, drive.params())
    self.assertEqual(drive.specs(after), drive.specs(state))
    self.assertContainsSubset(row.numbers, state.hyperparams)

  @parameterized.named_parameters(*table.named(
    [row for row in SCHEDULED if row.name in SOME]))
  def test_schedules_do_what_numbers_do(self, row):
    self.check_schedules(row)

  @parameterized.named_parameters(*table.named(
    [row for row in SCHEDULED if row.name not in SOME]))
  @pytest.mark.slow
  def test_so_do_those_of_every_function(self, row):
    self.check_schedules(row)

  def check_schedules(self, row):
    grads = drive.gradients_of(row)
    tx = inject(row, lambda value: functools.partial(constant, value))
    step = drive.step_of(row, tx)
    if row.kind != 'alone':
      step = jax.vmap(step, *drive.axes_of(row), axis_name='workers')
    updates, state, _ = jax.jit(step)(grads, *drive.start(row, tx))
    expected, inner = drive.update(row, grads)
    helpers.assert_close(updates, expected, 1e-5, 1e-30, of_largest=1e-6)
    helpers.assert_close(state.inner_state, inner, 1e-5, 1e-30)

  def test_a_schedule_moves(self):
    """The number of each step is that of the schedule, not of the first."""
    row = next(r for r in table.TABLE if r.name == 'agreement_running_mean')
    grads = {'w': jnp.array([[1., 0.], [0.9, 0.1], [0., 1.], [0.1, 1.]])}
    tx = optax.inject_hyperparams(row.factory, row.static_args())(
      max_cosine_distance=lambda count: 2.0 * count, axis_name='workers')
    step = jax.jit(jax.vmap(
      tx.update, (0, None), (None, None), axis_name='workers'))
    state = tx.init({'w': jnp.zeros(2)})
    agreed = []
    for _ in range(2):
      _, state = step(grads, state)
      agreed.append(int(state.inner_state.num_agreed))
    self.assertEqual(agreed, [0, 4])


if __name__ == '__main__':
  absltest.main()
