"""What tasks share: data and networks from flags, scores, lanes and streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from experiments import data, models
from experiments.common import flags, inputs, task
from tests.experiments import prepared

KEY = jax.random.key(0)
LANES = {'seed': np.array([3, 5, 3]), 'rate': np.array([0.1, 0.1, 0.2])}


def identity(images):
  return jnp.asarray(images, jnp.float32)


class InputsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.config = flags.Config(data_dir=prepared.folder())

  def test_at_the_size_that_is_asked_for(self):
    for size, found in ((0, 8), (4, 4)):
      config = dataclasses.replace(self.config, image_size=size)
      shape = task.load_images(config, 'test').arrays['image'].shape
      self.assertEqual(shape, (360, found, found, 1))

  @parameterized.parameters(
    (dict(dataset='cifr10'), "^--dataset='cifr10': must be .*near it: cifar10"),
    (dict(dataset='a b'), "^--dataset='a b': must be 'name'"),
    (dict(dataset='digits/x'), "^--dataset='digits/x': must be 'digits'"),
    (dict(data_dir='gs://x'), "^--data_dir='gs://x': must be a local folder"),
    (dict(dataset='pydoc_topics'), "^--dataset='pydoc_topics': must be a set of"
     ' images'))
  def test_errors_name_the_flag(self, changed, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      inputs.check_data(dataclasses.replace(self.config, **changed))

  def test_a_split_that_there_is_not(self):
    with self.assertRaisesRegex(
        flags.UsageError, "--dataset='digits': split must be one of"):
      task.load_images(self.config, 'validation')

  def test_the_number_of_examples_is_checked_where_images_are_needed(self):
    seen = []

    class Config(flags.Config):
      needs_images = lambda self: bool(self.seed)
      check_examples = lambda self, count: seen.append(count)

    for seed in (0, 1):
      inputs.check_data(Config(data_dir=self.config.data_dir, seed=seed))
    self.assertEqual(seen, [1437])


class ModelTest(absltest.TestCase):

  def test_sizes_that_do_not_fit_name_the_flag(self):
    with self.assertRaisesRegex(
        flags.UsageError, "--model='cnn' with --model_options='{}': "):
      task.build_model(flags.Config(model='cnn'), (8,), 10)

  @pytest.mark.slow
  def test_scores_over_any_number_of_examples(self):
    config = flags.Config(model='logistic')
    model = task.build_model(config, (2, 1, 1), 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 5, (7, 2, 1, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, 7).astype(np.int32)
    params = {'out': {'kernel': jnp.asarray(rng.normal(size=(2, 3)), 'f'),
                      'bias': jnp.zeros(3)}}
    self.assertEqual(
      [sorted(x) for x in (model.init(KEY), model.init(KEY)['out'])],
      [['out'], ['bias', 'kernel']])
    logits = images.reshape(7, 2) @ np.asarray(params['out']['kernel'])
    right = (logits.argmax(1) == labels).mean()
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[range(7), labels])
    examples = {'image': jnp.asarray(images), 'label': jnp.asarray(labels)}
    for at_once in (1, 3, 7, 100):
      found = task.score(model, identity, params, examples, at_once=at_once)
      np.testing.assert_allclose(found['loss'], wanted, 1e-5)
      np.testing.assert_allclose(found['accuracy'], right, 1e-6)
    both = {'out': {name: jnp.stack([x, 0 * x])
                    for name, x in params['out'].items()}}
    np.testing.assert_allclose(task.test_accuracy(
      model, identity, both, data.Examples('x', 3, None, {
        'image': images, 'label': labels}), at_once=3),
      [right, (labels == 0).mean()])


class ProgramTest(absltest.TestCase):

  def make(self, **options):
    model = models.build('logistic', input_shape=(2,), num_classes=2)
    return task.program(
      model, LANES, arrays={'x': np.arange(4.)},
      draw=lambda stream, steps: np.stack([
        np.full(2, 100 * stream + t) for t in steps]),
      make_optimizer=lambda lane: optax.sgd(lane['rate']), batch=None,
      loss=None, evaluate=None, **options)

  def test_lanes_of_one_seed_share_their_batches(self):
    program = self.make()
    rows = program.fetch(np.array([7, 8]))
    self.assertEqual(rows.shape, (2, 2, 2))
    np.testing.assert_array_equal(
      rows[np.asarray(program.lanes['order'])][:, :, 0],
      [[307, 308], [507, 508], [307, 308]])
    for name, dtype in (('seed', 'uint32'), ('rate', 'float32'),
                        ('order', 'int32')):
      self.assertEqual(program.lanes[name].dtype, dtype)

  def test_streams_of_their_own(self):
    program = self.make(streams=[2, 1, 0])
    rows = program.fetch(np.array([0]))
    np.testing.assert_array_equal(
      rows[np.asarray(program.lanes['order'])][:, 0, 0], [200, 100, 0])

  def test_starts_differ_by_seed_alone(self):
    program = self.make()
    starts = [program.init({'seed': seed})['out']['kernel']
              for seed in program.lanes['seed']]
    np.testing.assert_array_equal(starts[0], starts[2])
    self.assertGreater(np.abs(starts[0] - starts[1]).max(), 0)


if __name__ == '__main__':
  absltest.main()
