"""The data and networks of `decentralized`: images, and the next character."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, models
from experiments.common import flags
from experiments.decentralized import arms, measures
from experiments.engine import trainer


class Problem:
  """One domain: arrays of inputs and targets, and the programs of its arms."""

  def __init__(self, config, domain: str):
    self.config, self.domain = config, domain
    build = self._images if domain == 'images' else self._text
    train, test, self.model, self.prepare = build()
    self.train, self.size = train, len(train['target'])
    self.arrays = jax.tree.map(jnp.asarray, {'train': train, 'test': test})

  def _images(self):
    config = self.config
    load = functools.partial(
      data.load, config.dataset, data_dir=config.data_dir or None,
      image_size=config.image_size or None)
    splits, rows = (load('train'), load('test')), []
    for split in splits:
      arrays = split.gather(np.arange(len(split)))
      rows.append({'input': arrays['image'], 'target': arrays['label']})
    mean, std = data.channel_statistics(rows[0]['input'])
    if config.pixel_scale:
      std = np.full_like(std, config.pixel_scale)
    model = models.build(
      config.model, input_shape=rows[0]['input'].shape[1:],
      num_classes=splits[0].num_classes, **flags.options(config))
    return *rows, model, functools.partial(
      data.standardize, mean=mean, std=std)

  def _text(self):
    config, rows = self.config, []
    for split in ('train', 'test'):
      examples = data.load(f'pydoc_topics/length{config.text_length}', split,
                           data_dir=config.data_dir or None)
      tokens = examples.gather(np.arange(len(examples)))['tokens']
      rows.append({'input': tokens[:, :-1], 'target': tokens[:, 1:]})
    size = len(rows[1]['target'])
    flags.check(config.text_examples, 'text_examples', f'at most the '
                     f'{size} windows to test on', lambda n: n <= size)
    rows[1] = _pick(rows[1], config.text_examples)
    model = models.build(
      'lstm', input_shape=(config.text_length,), num_classes=data.VOCAB_SIZE,
      **flags.options(config, 'text_model_options'))
    return *rows, model, lambda tokens: tokens.astype(jnp.int32)

  def loss(self, params, batch, key):
    """Average the cross entropy over a batch."""
    inputs = batch['input']
    if self.config.augment and self.domain == 'images' and key is not None:
      inputs = data.augment_cifar(key, inputs)
    logits = self.model.apply(params, self.prepare(inputs))
    return models.cross_entropy(logits, batch['target'].astype(jnp.int32))

  @functools.cached_property
  def measured(self):
    """Pick the examples that define g, evenly spaced: [parts, size, ...]."""
    limit, count = self.config.eval_batch_size, self.config.measured_examples
    count = count or self.size
    flags.check(count, 'measured_examples', f'at most the {self.size} to '
                     'train on', lambda n: n <= self.size)
    size = min(limit, count)
    flags.check(
      count, 'measured_examples', f'at most --eval_batch_size={limit}, or a '
      'multiple of it', lambda n: n % size == 0)
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]),
                        _pick(self.train, count))

  def reference(self, params):
    """Compute g, the gradient over the examples to measure with."""
    grads = jax.lax.map(
      lambda part: jax.grad(self.loss)(params, part, None), self.measured)
    return jax.tree.map(lambda x: x.mean(0), grads)

  def evaluate(self, arrays, lane, params):
    """Compute loss and accuracy on the test set."""
    del lane
    size = min(self.config.eval_batch_size, len(arrays['test']['target']))

    def one(example):
      logits = self.model.apply(params, self.prepare(example['input']))
      return (models.cross_entropy(logits, example['target'].astype('int32')),
              models.accuracy(logits, example['target']))

    loss, accuracy = jax.lax.map(one, arrays['test'], batch_size=size)
    return {'loss': loss.mean(), 'accuracy': accuracy.mean()}

  def program(self, arm, axis_name, ratio=None) -> trainer.Program:
    """Train an arm; `ratio` [lanes, steps] is what to impose on its rate."""
    config = self.config
    rates, seeds = map(np.array, zip(*arm.settings(config.seed)))
    streams = sorted(set(seeds.tolist()))
    lanes = {'seed': seeds.astype(np.uint32),
             'order': np.searchsorted(streams, seeds),
             'learning_rate': rates.astype(np.float32)}
    if ratio is not None:
      lanes['ratio'] = ratio.astype(np.float32)

    def gradient(lane, params, batch, key):
      noise, augmentation = jax.random.split(key)
      at = arms.place(config, arm, params, noise)
      loss, g = jax.value_and_grad(self.loss)(at, batch, augmentation)
      return loss, measures.Sample(g, (batch, augmentation), lane['step'])

    def make_optimizer(lane):
      optimizer = measures.take_gradient(arms.make_optimizer(
        config, arm, lane, axis_name))
      if not arm.is_measured:
        return optimizer
      measure = functools.partial(
        measures.measure, reference=self.reference,
        gradient=None if arm.takes_gradient_at_mean else (
          lambda params, seen: jax.grad(self.loss)(params, *seen)),
        rate=lane['learning_rate'], axis_name=axis_name)
      return measures.record(
        optimizer, measure, every=config.measure_every,
        slots=config.every(self.domain) // config.measure_every)

    return trainer.Program(
      lanes=jax.tree.map(jnp.asarray, lanes), data=self.arrays,
      init=lambda lane: self.model.init(
        trainer.key_for(lane['seed'], 'init')),
      make_optimizer=make_optimizer,
      fetch=lambda steps: np.stack([
        data.order(seed, steps, arm.batch_size, self.size,
                   sampling='replacement') for seed in streams]),
      batch=lambda arrays, lane, rows: jax.tree.map(
        lambda x: x[rows], arrays['train']),
      loss=self.loss, gradient=gradient, evaluate=self.evaluate,
      read=measures.read if arm.is_measured else lambda state: {},
      private=('params', 'opt_state') if arm.topology else ())


def _pick(examples, count):
  """Pick so many examples, evenly spaced."""
  size = len(examples['target'])
  rows = np.linspace(0, size, count, endpoint=False, dtype=int)
  return jax.tree.map(lambda x: x[rows], examples)
