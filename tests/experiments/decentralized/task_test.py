"""The data of the third paper: text, and examples that define g."""

import dataclasses
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from experiments.decentralized import arms as decentralized_arms, task
from tests.experiments import prepared
from tests.experiments.decentralized.small import SMALL, find


class TextTest(absltest.TestCase):

  @pytest.mark.slow
  def test_predicts_the_next_character(self):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(SMALL, data_dir=folder, domains=('text',))
      of_text = task.Task(config, 'text')
    train, test = (of_text.arrays[name] for name in ('train', 'test'))
    np.testing.assert_array_equal(train['input'][:, 1:],
                                  train['target'][:, :-1])
    self.assertEqual(test['input'].shape, (8, 64))
    arms = decentralized_arms.list_arms(config)
    self.assertEqual([arm.name for arm in arms], ['dpsgd_random', 'ssgd'])
    program = of_text.program(
      arms[0], {'rate': np.ones(2), 'seed': np.arange(2)})
    self.assertEqual(program.fetch(np.arange(2)).shape, (2, 2, 6))
    params = jax.tree.map(jnp.zeros_like, of_text.model.init(jax.random.key(0)))
    found = program.evaluate(program.data, {}, params)
    self.assertAlmostEqual(float(found['loss']), np.log(97), 4)


class DataTest(absltest.TestCase):

  def test_examples_that_define_g_are_data_and_not_constants(self):
    images = task.Task(
      dataclasses.replace(SMALL, data_dir=prepared.folder()), 'images')
    program = images.program(find(SMALL, 'ssgd'), {
      'rate': np.ones(1), 'seed': np.arange(1)})
    self.assertEqual(program.data['measured']['input'].shape[:2], (1, 64))
    lane = jax.tree.map(lambda x: x[0], program.lanes) | {'step': 0}
    tx = program.make_optimizer(lane)

    def step(data, params):
      batch = program.batch(data, lane, np.arange(4))
      _, sample = program.gradient(lane, params, batch, jax.random.key(0))
      return tx.update(sample, tx.init(params), params)

    traced = jax.make_jaxpr(
      lambda data, params: jax.vmap(
        step, in_axes=(None, 0), axis_name='workers')(data, jax.tree.map(
          lambda x: x[None], params)))(program.data, images.model.init(
            jax.random.key(0)))
    size = sum(np.size(x) for x in traced.consts)
    self.assertLess(size, 64 * 64)  # fewer than the pixels of `measured`


if __name__ == '__main__':
  absltest.main()
