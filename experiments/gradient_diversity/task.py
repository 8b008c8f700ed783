"""The data and the network of `gradient_diversity`, and its programs."""

import functools

import numpy as np

import gradiv
from experiments import data, models
from experiments.common import image_task, task
from experiments.gradient_diversity import tracking


class Problem:
  """A training set and a network, and the programs that train it.

  `arrays` holds the training set and, behind it, one more example: twins train
  on sets that differ in it.
  """

  def __init__(self, config):
    self.config = config
    examples = task.load_images(config, 'train')
    n = config.train_examples
    config.check_examples(len(examples))
    arrays = examples.gather(np.arange(n + 1))
    labels = arrays['label'].copy()
    if config.label_noise:
      labels[:n] = data.flip_labels(labels[:n], config.label_noise,
                                    examples.num_classes, config.seed)
    self.eval_size = min(config.eval_batch_size, n)
    self.arrays = {'image': arrays['image'], 'label': labels}
    self.standardize, self.model, self.loss = image_task.build(
      config, arrays['image'][:n], examples.num_classes,
      augment=config.augment)

  def rows(self, replication: float, seed: int) -> np.ndarray:
    """Choose which examples stand at the places of the training set."""
    return data.replicate(
      self.config.train_examples, replication, seed).astype(np.int32)

  def prepare(self, batch, key):
    """Standardize images; augment them with --augment."""
    image = batch['image']
    if self.config.augment:
      image = data.augment_cifar(key, image)
    return batch | {'image': self.standardize(image)}

  def loss_of_one(self, params, example):
    """Compute the cross entropy of one example, and whether it is right."""
    logits = self.model.apply(params, example['image'])
    label = example['label']
    return models.cross_entropy(logits, label), models.accuracy(logits, label)

  def measured_gradient(self, lane, params, batch, key):
    """Compute loss and gradient of a batch, with `Moments` of its examples."""
    del lane
    (loss, _), grads, moments = gradiv.example_moments(
      self.loss_of_one, has_aux=True)(params, self.prepare(batch, key))
    return loss, tracking.Measured(grads, moments)

  def program(self, lanes, batch_size, make_optimizer, *, evaluate=None,
              **rest):
    """Train each lane on batches of the places that its `rows` hold.

    Args:
      lanes: 'rate', 'seed' [L] and 'rows' [L, train_examples] among them.
      batch_size: The total over the workers.
      make_optimizer: lane -> optax transformation.
      evaluate: (examples, params) -> dict, with the lane's training set; by
        default `self.evaluate`.
      **rest: All else that `trainer.Program` takes.
    """
    config, evaluate = self.config, evaluate or self.evaluate
    return task.program(
      self.model, lanes, arrays=self.arrays,
      draw=lambda seed, steps: data.order(
        seed, steps, batch_size, config.train_examples,
        sampling=config.sampling),
      make_optimizer=make_optimizer,
      batch=lambda arrays, lane, rows: task.pick(arrays, lane['rows'][rows]),
      loss=self.loss,
      evaluate=lambda arrays, lane, params: evaluate(
        task.pick(arrays, lane['rows']), params),
      **rest)

  def evaluate(self, examples, params):
    """Compute loss and accuracy over the whole training set."""
    return task.score(self.model, self.standardize, params, examples,
                      at_once=self.eval_size)

  def evaluate_exactly(self, examples, params):
    """Also compute ‖∇F‖² and tr Σ over the whole training set, by layer too.

    One forward and backward pass gives all of it: the gradient of a single
    example is never written to memory.
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

  def evaluate_whole(self, examples, params):
    """Compute ‖∇F‖² and tr Σ exactly, and nothing by layer: at every step."""
    (loss, _), _, moments = gradiv.example_moments(
      self.loss_of_one, has_aux=True, microbatch_size=self.eval_size)(
        params, examples | {'image': self.standardize(examples['image'])})
    exact = gradiv.estimate(moments, num_examples=self.config.train_examples)
    return {'loss': loss, 'exact_sq_norm': exact.sq_norm,
            'exact_variance': exact.variance}

  @functools.cached_property
  def test(self):
    """Read the test set, where it is needed."""
    return task.load_images(self.config, 'test')

  def test_accuracy(self, params) -> np.ndarray:
    """Compute the accuracy on the test set: [lanes]."""
    return task.test_accuracy(
      self.model, self.standardize, params, self.test,
      at_once=self.config.eval_batch_size)
