"""The data and the network of `gradient_diversity`, as a trainer wants them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from experiments import data, models
from experiments.common import flags
from experiments.engine import trainer
from experiments.gradient_diversity import tracking


class Problem:
  """The data and the network, and the programs that train it."""

  def __init__(self, config):
    self.config = config
    examples = data.load(config.dataset, 'train',
                         data_dir=config.data_dir or None,
                         image_size=config.image_size or None)
    n = config.train_examples
    flags.check(n, 'train_examples', f'below the {len(examples)} of '
                     f'{config.dataset}', lambda n: n < len(examples))
    arrays = examples.gather(np.arange(n + 1))
    mean, std = data.channel_statistics(arrays['image'][:n])
    labels = arrays['label'].copy()
    if config.label_noise:
      labels[:n] = data.flip_labels(labels[:n], config.label_noise,
                                    examples.num_classes, config.seed)
    self.eval_size = min(config.eval_batch_size, n)
    self.arrays = {'image': arrays['image'], 'label': labels}
    self.standardize = functools.partial(
      data.standardize, mean=mean, std=std)
    self.model = models.build(
      config.model, input_shape=arrays['image'].shape[1:],
      num_classes=examples.num_classes, **flags.options(config))

  def rows(self, replication: int, seed: int) -> np.ndarray:
    """Choose which examples stand at the places of the training set."""
    return data.replicate(self.config.train_examples, replication, seed)

  def prepare(self, batch, key):
    """Augment a batch where that is asked for; standardize its images."""
    image = batch['image']
    if self.config.augment:
      image = data.augment_cifar(key, image)
    return batch | {'image': self.standardize(image)}

  def loss_of_one(self, params, example):
    """Compute the cross entropy of one example, and whether it is right."""
    logits = self.model.apply(params, example['image'])
    label = example['label']
    return models.cross_entropy(logits, label), models.accuracy(logits, label)

  def loss(self, params, batch, key):
    """Average the cross entropy over a batch."""
    batch = self.prepare(batch, key)
    logits = self.model.apply(params, batch['image'])
    return models.cross_entropy(logits, batch['label'])

  def measured_gradient(self, lane, params, batch, key):
    """Compute loss and gradient of a batch, with `Moments` of its examples."""
    del lane
    (loss, _), grads, moments = gradiv.example_moments(
      self.loss_of_one, has_aux=True)(params, self.prepare(batch, key))
    return loss, tracking.Measured(grads, moments)

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
    def part(examples):
      logits = self.model.apply(params, self.standardize(examples['image']))
      return {'loss': models.cross_entropy(logits, examples['label']),
              'accuracy': models.accuracy(logits, examples['label'])}

    parts = jax.tree.map(
      lambda x: x.reshape(-1, self.eval_size, *x.shape[1:]), examples)
    return jax.tree.map(jnp.mean, jax.lax.map(part, parts))

  def evaluate_exactly(self, examples, params):
    """Also compute ‖∇F‖² and tr Σ over the whole training set, by layer too.

    One forward and backward pass gives all of it: no gradient of a single
    example is ever written out.
    """
    (loss, right), _, layers = gradiv.example_moments(
      self.loss_of_one, has_aux=True, groups=gradiv.by_layer,
      microbatch_size=self.eval_size)(
        params, examples | {'image': self.standardize(examples['image'])})
    n = self.config.train_examples
    metrics = {'loss': loss, 'accuracy': right.mean()}
    by_layer = gradiv.estimate(layers, num_examples=n)
    for i, name in enumerate(gradiv.group_names(params, gradiv.by_layer)):
      metrics |= {f'exact_sq_norm/{name}': by_layer.sq_norm[i],
                  f'exact_variance/{name}': by_layer.variance[i]}
    moments = gradiv.Moments(
      layers.num_gradients[0], layers.batch_size[0],
      sum(layers.sq_norm_of_mean), sum(layers.mean_sq_deviation))
    exact = gradiv.estimate(moments, num_examples=n)
    return metrics | {
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
