"""The flags, the optimizers and the programs of `critical_batch`."""

import math
import pathlib
import tempfile

import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments import data, models
from experiments.common import flags, parsing
from experiments.critical_batch import optimizers
from experiments.critical_batch.config import Config
from experiments.critical_batch.task import Task
from experiments.engine import states
from tests.experiments import prepared, presets
from tests.experiments.critical_batch.small import CONFIG


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    ('--factors=2,4', 'at least 2, rising from 1'),
    ('--factors=1', 'at least 2, rising from 1'),
    ('--factors=1,3', 'a multiple of each of --factors=1,3'),
    ('--points=64,32', 'rising multiples of --record_steps=32'),
    ('--points=40', 'rising multiples of --record_steps=32'),
    ('--branch_steps=40', 'a multiple of --record_steps=32'),
    ('--text_tolerance=0', '--text_tolerance=0.0: must be positive'),
    ('--text_batch_size=0', 'must be at least 1'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(Config, ['critical_batch', '--workdir=x', flag])

  def test_the_optimizer_says_how_the_rate_grows(self):
    self.assertAlmostEqual(CONFIG.setting('images').rate(4), 4 * 0.4)
    self.assertAlmostEqual(CONFIG.setting('text').rate(4), 2 * 0.008)


class OptimizersTest(absltest.TestCase):

  def walk(self, make):
    """Take steps on the gradients of drawn examples; return the last state."""
    params = {'w': np.zeros(6, np.float32)}
    draws = np.random.default_rng(0).normal(0.5, 1, (20, 8, 6)).astype('f')
    optimizer = make()

    def step(params, state, xs):
      _, grads, moments = gradiv.example_moments(
        lambda params, x: (params['w'] - x) @ (params['w'] - x))(params, xs)
      if make == self.tracked:
        grads = optimizers.Measured(grads, moments)
      updates, state = optimizer.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    run = jax.jit(jax.vmap(step, axis_name='workers', in_axes=0))
    params, state = jax.tree.map(
      lambda x: jax.numpy.asarray(x)[None], (params, optimizer.init(params)))
    for xs in draws:
      params, state = run(params, state, xs[None])
    return jax.tree.map(lambda x: x[0], (params, state))

  def plain(self):
    return optimizers.of_size(CONFIG.setting('text'), 4, 'workers')

  def tracked(self):
    return optimizers.tracked(self.plain(), 'workers')

  def test_tracking_changes_no_step_and_its_state_comes_first(self):
    params, state = self.walk(self.plain)
    same, (_, inner) = self.walk(self.tracked)
    np.testing.assert_array_equal(same['w'], params['w'])
    jax.tree.map(np.testing.assert_array_equal, inner, state)

  def test_the_advice_of_numbers_is_that_of_the_state(self):
    _, state = self.walk(self.tracked)
    numbers = {name: float(x) for name, x in optimizers.read(state).items()}
    again = gradiv.advise(optimizers.reading_of(numbers), 8)
    advice = gradiv.advise(gradiv.read_moments(state), 8)
    self.assertEqual(str(again), str(advice))
    self.assertBetween(numbers['signal'], 0.01, 0.9)

  def test_begun_begins_with_the_state_that_is_there(self):
    _, state = self.walk(self.plain)
    begun = optimizers.begun(self.plain(), state)
    self.assertIs(begun.init({'w': np.zeros(6)}), state)


class TaskTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = prepared.folder()

  def test_all_batch_sizes_see_the_same_examples(self):
    task = Task(parsing.parse(Config, [
      'critical_batch', '--workdir=x', f'--data_dir={self.folder}']), 'images')
    seeds, first = np.array([0, 0, 1]), np.array([64, 256, 64])
    small, large = (task.program(factor, seeds, first) for factor in (1, 4))
    rows = small.fetch(np.arange(8))
    self.assertEqual(rows.shape, (3, 8, 16))
    np.testing.assert_array_equal(
      rows.reshape(3, -1), large.fetch(np.arange(2)).reshape(3, -1))
    # The branch goes on where the trunk has come to.
    trunk = task.program(1, np.array([0]), np.array([0]))
    np.testing.assert_array_equal(trunk.fetch(np.arange(64, 72))[0], rows[0])

  def test_too_many_examples_to_measure_on(self):
    with self.assertRaisesRegex(flags.UsageError, 'eval_examples=5000: must be '
                                'at most the 1437'):
      Task(parsing.parse(Config, [
        'critical_batch', '--workdir=x', f'--data_dir={self.folder}',
        '--eval_examples=5000']), 'images')


class PresetTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    path, = (path for path in presets.PRESETS
             if path.stem == 'transformer_100m')
    self.config = parsing.parse(Config, [
      'critical_batch', '--workdir=x', f'--flagfile={path}'])

  def test_it_has_100_million_parameters(self):
    config = self.config
    model = models.build(
      config.text_model, input_shape=(config.text_length,),
      num_classes=data.VOCAB_SIZE, **flags.options(
        config, 'text_model_options'))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    self.assertAlmostEqual(count / 1e6, 100, delta=1)

  @pytest.mark.slow
  def test_its_programs_fit_together(self):
    """A tracked step, and one of the largest batch, by their shapes."""
    with tempfile.TemporaryDirectory() as folder:
      config = parsing.parse(Config, [
        'critical_batch', '--workdir=x', f'--data_dir={folder}',
        f'--flagfile={pathlib.Path(presets.FOLDER)}/critical_batch/flags/'
        'transformer_100m.flags'])
      task, seeds = Task(config, 'text'), np.array([0])
    for factor, is_tracked in ((1, True), (config.factors[-1], False)):
      found = states.shapes(
        task.program(factor, seeds, seeds, is_tracked=is_tracked),
        config.schedule(config.branch_steps, config.record_steps // factor),
        config.workers())
      self.assertEqual(found['loss'].shape, (1,))
      self.assertEqual('signal' in found, is_tracked)


if __name__ == '__main__':
  absltest.main()
