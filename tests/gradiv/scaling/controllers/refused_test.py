"""Wrong options and measurements are refused, and named."""

import warnings

import jax
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv.scaling import controllers as lib
from gradiv.scaling.controllers import controller
from tests.gradiv.scaling.controllers.cases import (
  LADDER,
  reading,
)


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
    ('ladder', lambda: lib.NoiseScale(ladder=(4, 8))),
    ('batch_size', lambda: lib.NoiseScale(ladder=LADDER, start=12)),
    ('rate_rule', lambda: lib.NormTest(ladder=LADDER, rate_rule='cubic')),
    ('rate_rule', lambda: lib.Seesaw(
      ladder=LADDER, schedule=abs, rate_rule='linear')),
    ('schedule', lambda: lib.Seesaw(ladder=LADDER, schedule=.1)),
    ('multiple', lambda: lib.NoiseScale(ladder=LADDER, multiple=0)),
    ('theta', lambda: lib.NormTest(ladder=LADDER, theta=-1)),
    ('nu', lambda: lib.InnerProductTest(ladder=LADDER, nu=0.)),
    ('decay', lambda: lib.InnerProductTest(ladder=LADDER, decay=1.)),
    ('delta', lambda: lib.DiveBatch(ladder=LADDER, delta=0.)),
    ('denominator', lambda: lib.DiveBatch(ladder=LADDER, denominator='n')),
    ('starts', lambda: lib.FixedRamp(ladder=LADDER, starts=(0, 1))),
    ('starts', lambda: lib.FixedRamp(ladder=lib.Ladder(4, 8), starts=(1, 2))),
    ('num_errors', lambda: lib.LossDriven(ladder=LADDER, num_errors=-1.)))
  def test_options(self, name, make):
    with self.assertRaisesRegex(ValueError, name):
      make()

  def test_what_is_measured(self):
    moments = gradiv.Moments(8., 1., 1., 1.)
    for name, control, measured, kwargs in (
        ('reading', lib.NoiseScale(ladder=LADDER), moments, {}),
        ('measured', lib.DiveBatch(ladder=LADDER, denominator='published'),
         reading(1, 2), {}),
        ('gram', lib.InnerProductTest(ladder=LADDER), np.eye(3), {}),
        ('loss', lib.Cabs(ladder=LADDER, lowest=1.), reading(1, 2),
         {'loss': .5, 'learning_rate': .1})):
      with self.assertRaisesRegex(ValueError, name):
        control.update(control.init(), measured, **kwargs)
    several = jax.tree.map(lambda x: np.stack([x, x]), reading(1, 2))
    with self.assertRaisesRegex(ValueError, 'one run'):
      controller.target_of(several, gradiv.noise_scale)

  def test_equal_gradients_move_nothing(self):
    """As behind an aggregation, where B_S would seem to be 1."""
    for make in (lib.NoiseScale, lib.NormTest, lib.DiveBatch):
      options = {'delta': .1} if make is lib.DiveBatch else {}
      control = make(ladder=LADDER, start=32, **options)
      with self.assertWarnsRegex(
          UserWarning, 'stays: all gradients were equal'):
        state, size = control.update(control.init(), reading(1, 1, 1e-9))
      self.assertEqual((size, state.num_changes), (32, 0))
      with warnings.catch_warnings():
        warnings.simplefilter('error')
        control.update(control.init(), reading(1, 1, 1e-3))


if __name__ == '__main__':
  absltest.main()
