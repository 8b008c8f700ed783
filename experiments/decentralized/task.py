"""The data and networks of `decentralized`: images, and the next character."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, models
from experiments.common import flags, task
from experiments.decentralized import measures, optimizers
from experiments.decentralized.arms import Arm
from experiments.engine import trainer


class Task:
  """One domain: arrays of inputs and targets, and the programs of its arms."""

  def __init__(self, config, domain: str):
    self.config, self.domain = config, domain
    load = self._images if domain == 'images' else self._text
    train, test, self.model, self.prepare = load()
    self.size = len(train['target'])
    self.arrays = {'train': train, 'test': test}
    if domain == 'images':
      self.arrays['measured'] = self._measured(train)

  def _images(self):
    config, splits = self.config, []
    for name in ('train', 'test'):
      examples = task.load_images(config, name)
      rows = examples.gather(np.arange(len(examples)))
      splits.append({'input': rows['image'], 'target': rows['label']})
    mean, std = data.channel_statistics(splits[0]['input'])
    if config.pixel_scale:
      std = np.full_like(std, config.pixel_scale)
    model = task.build_model(
      config, splits[0]['input'].shape[1:], examples.num_classes)
    return *splits, model, functools.partial(
      data.standardize, mean=mean, std=std)

  def _text(self):
    config, splits = self.config, []
    for name in ('train', 'test'):
      examples = data.load(f'pydoc_topics/length{config.text_length}', name,
                           data_dir=config.data_dir or None)
      tokens = examples.gather(np.arange(len(examples)))['tokens']
      splits.append({'input': tokens[:, :-1], 'target': tokens[:, 1:]})
    size = len(splits[1]['target'])
    flags.check(config.text_examples, 'text_examples', f'at most the {size} '
                'windows to test on', lambda n: n <= size)
    splits[1] = _evenly(splits[1], config.text_examples)
    model = task.build_model(
      config, (config.text_length,), data.VOCAB_SIZE, name='lstm',
      options='text_model_options')
    return *splits, model, lambda tokens: tokens.astype(jnp.int32)

  def _measured(self, train):
    """Pick the examples that define g, evenly spaced: [parts, size, ...]."""
    limit, size = self.config.eval_batch_size, len(train['target'])
    count = self.config.measured_examples or size
    flags.check(count, 'measured_examples', f'at most the {size} to train on',
                lambda n: n <= size)
    part = min(limit, count)
    flags.check(
      count, 'measured_examples', f'at most --eval_batch_size={limit}, or a '
      'multiple of it', lambda n: n % part == 0)
    return jax.tree.map(lambda x: x.reshape(-1, part, *x.shape[1:]),
                        _evenly(train, count))

  def loss(self, params, batch, key):
    """Average the cross entropy over a batch."""
    inputs = batch['input']
    if self.config.augment and self.domain == 'images' and key is not None:
      inputs = data.augment_cifar(key, inputs)
    logits = self.model.apply(params, self.prepare(inputs))
    return models.cross_entropy(logits, batch['target'].astype(jnp.int32))

  def reference(self, params, seen):
    """Compute g, the gradient over the examples that define it."""
    grads = jax.lax.map(
      lambda part: jax.grad(self.loss)(params, part, None),
      seen[0]['measured'])
    return jax.tree.map(lambda x: x.mean(0), grads)

  def evaluate(self, arrays, lane, params):
    """Compute loss and accuracy on the test set."""
    del lane
    test = arrays['test']
    return task.score(
      self.model, self.prepare, params,
      {'image': test['input'], 'label': test['target'].astype(jnp.int32)},
      at_once=self.config.eval_batch_size)

  def program(self, arm: Arm, lanes: dict[str, np.ndarray]
              ) -> trainer.Program:
    """Train lanes of an arm.

    Args:
      arm: What to train.
      lanes: 'rate' and 'seed' [L]; of 'imposed' also 'ratio' [L, looks], the
        factors to impose on the rate, one every --measure_every steps.
    """
    if arm.name == 'imposed':
      steps = np.arange(self.config.steps)
      lanes = lanes | {'ratio': np.stack([
        np.interp(steps, steps[::self.config.measure_every], looks)
        for looks in lanes['ratio']])}

    def gradient(lane, params, batch, key):
      noise, augmentation = jax.random.split(key)
      at = optimizers.place(self.config, arm, params, noise)
      loss, g = jax.value_and_grad(self.loss)(at, batch, augmentation)
      return loss, measures.Sample(g, (batch, augmentation), lane['step'])

    def batch(arrays, lane, rows):
      del lane
      picked = task.pick(arrays['train'], rows)
      return picked | ({'measured': arrays['measured']} if arm.is_measured
                       else {})

    return task.program(
      self.model, lanes, arrays=self.arrays,
      draw=lambda seed, steps: data.order(
        seed, steps, arm.batch_size, self.size, sampling='replacement'),
      make_optimizer=functools.partial(self._make_optimizer, arm),
      batch=batch, loss=self.loss, gradient=gradient, evaluate=self.evaluate,
      read=measures.read if arm.is_measured else lambda state: {},
      private=('params', 'opt_state') if arm.topology else ())

  def _make_optimizer(self, arm, lane):
    """Build the optimizer of an arm, recorded where it is measured."""
    config = self.config
    axis_name = config.workers(arm.num_workers).axis_name
    optimizer = measures.take_gradient(
      optimizers.make_optimizer(config, arm, lane, axis_name))
    if not arm.is_measured:
      return optimizer
    measure = functools.partial(
      measures.measure, reference=self.reference,
      gradient=None if arm.takes_gradient_at_mean else (
        lambda params, seen: jax.grad(self.loss)(params, *seen)),
      rate=lane['rate'], axis_name=axis_name)
    return measures.record(
      optimizer, measure, every=config.measure_every,
      slots=config.every(self.domain) // config.measure_every)


def _evenly(examples, count):
  """Pick `count` examples, evenly spaced."""
  size = len(examples['target'])
  return task.pick(
    examples, np.linspace(0, size, count, endpoint=False, dtype=int))


def of_domains(config) -> dict[str, Task]:
  """Make the task of each domain."""
  return {domain: Task(config, domain) for domain in config.domains}
