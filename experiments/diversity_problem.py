"""The data and the network of `gradient_diversity`, as a trainer wants them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from experiments import config as config_lib
from experiments import data, models, trainer


class Problem:
  """The data and the network, and the programs that train it."""

  def __init__(self, config):
    self.config = config
    examples = data.load(config.dataset, 'train',
                         data_dir=config.data_dir or None,
                         image_size=config.image_size or None)
    n = config.train_examples
    config_lib.check(n, 'train_examples', f'below the {len(examples)} of '
                     f'{config.dataset}', lambda n: n < len(examples))
    arrays = examples.gather(np.arange(n + 1))
    mean, std = data.channel_statistics(arrays['image'][:n])
    labels = arrays['label'].copy()
    if config.label_noise:
      labels[:n] = data.flip_labels(labels[:n], config.label_noise,
                                    examples.num_classes, config.seed)
    self.arrays = {'image': arrays['image'], 'label': labels}
    self.standardize = functools.partial(
      data.standardize, mean=mean, std=std)
    self.model = models.build(
      config.model, input_shape=arrays['image'].shape[1:],
      num_classes=examples.num_classes, **config_lib.options(config))

  def rows(self, replication: int, seed: int) -> np.ndarray:
    """Choose which examples stand at the places of the training set."""
    return data.replicate(self.config.train_examples, replication, seed)

  def loss(self, params, batch, key):
    """Average the cross entropy over a batch."""
    image = batch['image']
    if self.config.augment:
      image = data.augment_cifar(key, image)
    logits = self.model.apply(params, self.standardize(image))
    return models.cross_entropy(logits, batch['label'])

  def program(self, lanes, batch_size, make_optimizer, **kwargs):
    """Train each lane on batches of the places that its `rows` hold."""
    config = self.config
    seeds = sorted(set(np.asarray(lanes['seed']).tolist()))
    lanes = lanes | {'order': np.searchsorted(seeds, lanes['seed'])}

    def fetch(steps):
      return np.stack([
        data.order(seed, steps, batch_size, config.train_examples,
                   sampling=config.sampling) for seed in seeds])

    pick = lambda arrays, rows: jax.tree.map(lambda x: x[rows], arrays)
    evaluate = kwargs.pop('evaluate', self.evaluate)
    return trainer.Program(
      lanes=jax.tree.map(jnp.asarray, lanes),
      data=jax.tree.map(jnp.asarray, self.arrays),
      init=lambda lane: self.model.init(
        trainer.key_for(lane['seed'], 'init')),
      make_optimizer=make_optimizer,
      fetch=fetch,
      batch=lambda arrays, lane, rows: pick(arrays, lane['rows'][rows]),
      loss=self.loss,
      evaluate=lambda arrays, lane, params: evaluate(
        pick(arrays, lane['rows']), params),
      **kwargs)

  def evaluate(self, examples, params):
    """Compute the loss over the whole training set, as it is."""
    size = min(self.config.eval_batch_size, self.config.train_examples)

    def part(examples):
      logits = self.model.apply(params, self.standardize(examples['image']))
      return {'loss': models.cross_entropy(logits, examples['label']),
              'accuracy': models.accuracy(logits, examples['label'])}

    parts = jax.tree.map(
      lambda x: x.reshape(-1, size, *x.shape[1:]), examples)
    return jax.tree.map(jnp.mean, jax.lax.map(part, parts))

  def evaluate_exactly(self, examples, params):
    """Also compute ‖∇F‖² and tr Σ over the whole training set."""
    def one(image, label):
      loss = lambda p: models.cross_entropy(
        self.model.apply(p, self.standardize(image[None])), label[None])
      return gradiv.worker_moments(jax.grad(loss)(params), 'examples')

    moments = jax.vmap(one, axis_name='examples', out_axes=None)(
      examples['image'], examples['label'])
    exact = gradiv.estimate(
      moments, num_examples=self.config.train_examples)
    return self.evaluate(examples, params) | {
      'exact_sq_norm': exact.sq_norm,
      'exact_variance': exact.variance,
      'diversity': gradiv.gradient_diversity(moments),
    }

  @functools.cached_property
  def test(self):
    """Read the test set, where it is needed."""
    return data.load(self.config.dataset, 'test',
                     data_dir=self.config.data_dir or None,
                     image_size=self.config.image_size or None)

  def test_accuracy(self, params) -> np.ndarray:
    """Compute the accuracy on the test set: [lanes]."""
    apply = jax.jit(lambda params, images: jax.lax.map(
      lambda p: self.model.apply(p, self.standardize(images)).argmax(-1),
      params))
    right = 0
    for rows in np.array_split(
        np.arange(len(self.test)), -(-len(self.test)
                                     // self.config.eval_batch_size)):
      batch = self.test.gather(rows)
      predicted = np.asarray(apply(params, batch['image']))
      right += (predicted == batch['label'][None]).sum(1)
    return right / len(self.test)
