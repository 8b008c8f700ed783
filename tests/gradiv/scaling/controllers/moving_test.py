"""Controllers move on their ladder, and only where the interval says so."""

import math

import jax
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv.scaling import controllers as lib
from tests.gradiv.scaling.controllers.cases import (
  FROM_READINGS,
  LADDER,
  follow,
  reading,
  sizes,
)


class LadderTest(parameterized.TestCase):

  def test_rounds_on_the_ladder(self):
    ladder = lib.Ladder(6, 48)
    self.assertEqual(ladder.sizes, (6, 12, 24, 48))
    for x, nearest, above in (
        (-1, 6, 6), (0, 6, 6), (6.1, 6, 12), (12, 12, 12), (16, 12, 24),
        (18, 24, 24), (47, 48, 48), (1e9, 48, 48), (math.inf, 48, 48)):
      self.assertEqual(ladder.nearest(x), nearest)
      self.assertEqual(ladder.at_least(x), above)
    self.assertEqual(lib.Ladder(8, 8).sizes, (8,))

  @parameterized.parameters(
    ('least', 0, 4), ('most', 4, 2), ('most', 4, 12), ('least', 2.5, 5))
  def test_refuses(self, name, least, most):
    with self.assertRaisesRegex(ValueError, name):
      lib.Ladder(least, most)


class MoveTest(parameterized.TestCase):

  @parameterized.parameters(
    (16, 10, 40, 16),  # includes 16
    (16, 20, 30, 16),  # as near as any other on the ladder
    (16, 30, 140, 64),  # up, to the value
    (16, 50, math.inf, 64),  # only a lower bound: no further than that
    (64, 10, 20, 16),  # down
    (64, 0, math.inf, 64),  # nothing known
    (1024, 5000, 9000, 1024), (4, .1, .2, 4))  # the ends of the ladder
  def test_only_when_the_interval_excludes_the_present(
      self, present, low, high, expected):
    control = lib.NoiseScale(ladder=LADDER, start=present)
    value = math.inf if math.isinf(high) else None
    states = follow(control, [reading(low, high, value)])
    self.assertEqual(states[-1].batch_size, expected)
    self.assertEqual(states[-1].num_changes, int(expected != present))

  def test_a_test_that_must_pass_rounds_up(self):
    control = lib.NormTest(ladder=LADDER)
    states = follow(control, [reading(33, 34), reading(20, 60),
                              reading(31, 31.5), reading(9, 16)])
    self.assertEqual(sizes(states), [4, 64, 64, 32, 16])

  def test_the_one_sided_bound_counts_where_it_is_better(self):
    known = reading(0, math.inf, math.inf)._replace(
      batch_size_at_least=np.float32(65))
    states = follow(lib.NoiseScale(ladder=LADDER), [known])
    self.assertEqual(states[-1].batch_size, 64)

  def test_nothing_known_moves_nothing(self):
    empty = jax.device_get(jax.jit(gradiv.read_moments)(
      gradiv.track_moments().init(())))
    for _, control, *_ in FROM_READINGS:
      states = follow(control, [empty])
      self.assertEqual(states[-1].batch_size, control.first)
    control = lib.LossDriven(ladder=LADDER, start=8)
    states = follow(control, [4., math.nan])
    self.assertEqual(states[-1].batch_size, 8)
    control = lib.InnerProductTest(ladder=LADDER, start=8)
    states = follow(control, [np.full((5, 5), np.nan), np.eye(5)])
    self.assertEqual(states[-1].batch_size, 8)

  def test_an_uncertain_loss_moves_nothing(self):
    control = lib.LossDriven(ladder=LADDER, start=8)
    state, _ = control.update(control.init(), 4.)
    self.assertEqual(control.update(state, 1., error=2.)[1], 8)
    self.assertEqual(control.update(state, 1., error=.01)[1], 32)

  def test_by_layer_the_whole_gradient_counts(self):
    whole = reading(60, 62)
    layers = jax.tree.map(lambda x: np.stack([x, x]), whole)._replace(
      whole=whole)
    control = lib.NoiseScale(ladder=LADDER)
    self.assertEqual(control.update(control.init(), layers),
                     control.update(control.init(), whole))

  @parameterized.parameters(
    ('none', 1), ('linear', 4), ('sqrt', 2), ('seesaw', .5))
  def test_rate_rules(self, rule, factor):
    control = lib.NoiseScale(ladder=LADDER, start=16, rate_rule=rule)
    self.assertEqual(control.rate_factor(control.init()), 1)
    state = control.init()._replace(batch_size=64)
    self.assertEqual(control.rate_factor(state), factor)

  def test_fixed_ramps_may_skip_sizes(self):
    ramp = lib.FixedRamp(ladder=lib.Ladder(4, 32), starts=(0, 100, 100, 900))
    states = follow(ramp, [0, 99, 100, 899, 900, 5000])
    self.assertEqual(sizes(states), [4, 4, 4, 16, 16, 32, 32])


if __name__ == '__main__':
  absltest.main()
