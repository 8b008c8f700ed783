"""Controllers resume exactly, and lead to no further programs."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.scaling import controllers as lib
from tests.gradiv.scaling.controllers.cases import (
  FROM_READINGS,
  LADDER,
  PROBLEM,
  follow,
  reading,
  readings,
)


class ResumeTest(parameterized.TestCase):

  @parameterized.named_parameters(
    *((name, control, readings) for name, control, *_ in FROM_READINGS),
    ('loss_driven', lib.LossDriven(ladder=LADDER),
     lambda: np.geomspace(2, .01, 40)),
    ('fixed', lib.FixedRamp(ladder=lib.Ladder(4, 16), starts=(0, 20, 30)),
     lambda: range(50)),
    ('seesaw', lib.Seesaw(ladder=LADDER, schedule=lambda n: .9**n),
     lambda: range(50)),
    ('inner_product', lib.InnerProductTest(ladder=LADDER, nu=1.), lambda: [
      g @ g.T for g in PROBLEM.grads(50, 16)]))
  def test_is_the_uninterrupted_run_bit_for_bit(self, control, inputs):
    inputs = list(inputs())
    states = follow(control, inputs)
    middle = len(inputs) // 2
    leaves, structure = jax.tree.flatten(states[middle])
    for leaf in leaves:
      self.assertIsInstance(leaf, (int, float))
    # A checkpoint holds arrays of 64 bits, or text that says every digit.
    saved = [type(x)(repr(x)) for x in leaves]
    resumed = follow(control, inputs[middle:], structure.unflatten(saved))
    for a, b in zip(states[middle:], resumed, strict=True):
      self.assertEqual(repr(a), repr(b))

  def test_no_program_beyond_the_ladder(self):
    traces = []

    @jax.jit
    def step(batch):
      traces.append(len(batch))
      return batch.sum()

    control = lib.NoiseScale(ladder=lib.Ladder(8, 32))
    state = control.init()
    for known in [reading(1e4, 1e5), reading(1, 2), reading(14, 17)] * 3:
      state, size = control.update(state, known)
      step(np.ones(size, np.float32))
    self.assertEqual(sorted(traces), [8, 16, 32])

  def test_a_state_must_be_on_the_ladder(self):
    control = lib.NoiseScale(ladder=LADDER)
    with self.assertRaisesRegex(ValueError, 'batch_size'):
      control.update(lib.ControllerState(batch_size=48), reading(4, 5))


if __name__ == '__main__':
  absltest.main()
