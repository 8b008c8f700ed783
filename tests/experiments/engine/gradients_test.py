"""Every form of a loss: what it returns, in how many pieces, how narrow."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.engine import compiled, records, trainer
from tests import helpers
from tests.experiments.engine import small


def with_scalars(params, x, key):
  return small.loss(params, x, key), {'mean_x': x.mean(), 'two': 2.0}


def with_mean(params, mean, x, key):
  """Keep a running mean of the inputs, as batch normalization does."""
  new = 0.5 * mean + 0.5 * x.mean(0)
  return small.loss(params, x, key), {'model_state': new, 'mean_x': x.mean()}


WITH_MEAN = dict(
  loss=with_mean, model_state=lambda lane, params: jnp.zeros(3),
  evaluate=lambda arrays, lane, params, mean: {'mean': mean})


class GradientsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.plain = small.train(folder)
    cls.plain_log = records.read(folder / 'metrics.jsonl')

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def train(self, name, **changes):
    state = small.train(self.folder / name, **changes)
    return state, records.read(self.folder / name / 'metrics.jsonl')

  def test_scalars_beside_the_loss_are_recorded(self):
    few = self.plain_log
    state, many = self.train('b', loss=with_scalars)
    helpers.assert_same(state, self.plain)
    rows = small.program().fetch(np.arange(4))
    np.testing.assert_allclose(many[1]['mean_x'], small.X[rows].mean((1, 2, 3)),
                               1e-4, 1e-6)
    self.assertEqual(many[1]['two'], [2.0, 2.0])
    self.assertEqual([{k: r[k] for k in few[1]} for r in many[1:]], few[1:])

  def test_a_name_is_recorded_once(self):
    with self.assertRaisesRegex(ValueError, r"\['norm'\] is returned by"):
      self.train('a', loss=lambda *args: (small.loss(*args), {'norm': 0.}))
    with self.assertRaisesRegex(ValueError, "'batch_loss' is the name"):
      self.train('a', loss=lambda *args: (small.loss(*args),
                                          {'batch_loss': 0.}))

  @pytest.mark.slow
  def test_the_state_of_a_model(self):
    """Averaged over workers, evaluated, saved, and resumed."""
    state, rows = self.train('b', **WITH_MEAN)
    helpers.assert_same(state['params'], self.plain['params'])
    seen = small.X[small.program().fetch(np.arange(small.STEPS))].mean(2)
    wanted = np.zeros((2, 3))
    for step in range(small.STEPS):
      wanted = 0.5 * wanted + 0.5 * seen[:, step]
    np.testing.assert_allclose(state['model_state'], wanted, 1e-4, 1e-6)
    np.testing.assert_allclose(rows[-1]['mean'], wanted, 1e-4, 1e-6)
    self.train('c', schedule=trainer.Schedule(8, 4, 0.), **WITH_MEAN)
    again, log = self.train('c', **WITH_MEAN)
    helpers.assert_same(again, state)
    self.assertEqual(log, rows)

  def test_a_model_state_that_is_not_returned(self):
    with self.assertRaisesRegex(ValueError, "'model_state' is missing"):
      self.train('a', **WITH_MEAN | dict(
        loss=lambda params, mean, x, key: small.loss(params, x, key)))

  def test_micro_batches_are_one_batch_up_to_rounding(self):
    whole, log = self.train('a', loss=with_scalars)
    parts, other = self.train('b', loss=with_scalars, accumulate=4)
    helpers.assert_close(parts, whole, 1e-5, 1e-6)
    for one, two in zip(log, other):
      for name in one:
        np.testing.assert_allclose(two[name], one[name], 1e-4, 1e-5)
    with self.assertRaisesRegex(ValueError, 'accumulate=3: must divide the 4'):
      self.train('c', accumulate=3)

  def test_micro_batches_take_less_memory(self):
    """Of hidden activations, a quarter at a time."""
    def wide(params, x, key):
      return small.loss(params, jnp.sin(x @ jnp.ones((3, 20000))) @ jnp.ones(
        (20000, 3)) / 20000, key)

    workers = trainer.Workers(1)

    def size(accumulate):
      program = small.program(loss=wide, accumulate=accumulate)
      programs = compiled.build(program, workers)
      rows = workers.split(program.fetch(np.arange(1)))
      scan = jax.jit(programs.scan).lower(
        rows, jax.eval_shape(programs.create), np.int32(0)).compile()
      return scan.memory_analysis().temp_size_in_bytes

    self.assertLess(2 * size(8), size(1))

  def test_the_model_changes_from_one_micro_batch_to_the_next(self):
    state, _ = self.train('a', accumulate=2, **WITH_MEAN)
    rows = small.program().fetch(np.arange(small.STEPS))
    # Two workers of four examples, in two micro-batches of two.
    seen = small.X[rows].reshape(2, small.STEPS, 2, 2, 2, 3).mean(4)
    wanted = np.zeros((2, 3))
    for step in range(small.STEPS):
      mean = np.repeat(wanted[:, None], 2, 1)
      for i in range(2):
        mean = 0.5 * mean + 0.5 * seen[:, step, :, i]
      wanted = mean.mean(1)
    np.testing.assert_allclose(state['model_state'], wanted, 1e-4, 1e-6)

  def test_a_narrow_type_is_for_the_loss_alone(self):
    seen = {}

    def loss(params, x, key):
      seen.update(params=params['w'].dtype, batch=x.dtype)
      return small.loss(params, x, key)

    whole, log = self.plain, self.plain_log
    state, narrow = self.train('b', loss=loss, compute_dtype=jnp.bfloat16)
    self.assertEqual(seen, dict.fromkeys(('params', 'batch'), jnp.bfloat16))
    self.assertEqual(state['params']['w'].dtype, jnp.float32)
    helpers.assert_close(state['params'], whole['params'], 0.05, 0.05)
    self.assertFalse((state['params']['w'] == whole['params']['w']).all())
    np.testing.assert_allclose(
      narrow[1]['batch_loss'], log[1]['batch_loss'], 0.05)

  def test_what_does_not_go_together(self):
    with self.assertRaisesRegex(ValueError, 'gradient goes with neither'):
      small.program(gradient=lambda *args: None, accumulate=2)
    with self.assertRaisesRegex(ValueError, 'accumulate=0'):
      small.program(accumulate=0)


if __name__ == '__main__':
  absltest.main()
