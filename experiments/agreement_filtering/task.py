"""The data and the network of `agreement_filtering`, and its programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.agreement_filtering import rules
from experiments.agreement_filtering.arms import Arm
from experiments.agreement_filtering.config import Config
from experiments.common import image_task, task
from experiments.engine import trainer


class Task:
  """Images with wrong labels, a part held out, and a network to train."""

  def __init__(self, config: Config):
    self.config = config
    examples = task.load_images(config, 'train')
    self.num_classes = examples.num_classes
    config.check_examples(len(examples))
    kept, held = data.hold_out(
      len(examples), config.validation_examples, seed=config.seed)
    kept = kept[:config.train_examples or None]
    train, validation = examples.gather(kept), examples.gather(held)
    self.clean = self.given = train['label']
    if config.noisy_label_key:
      self.given = task.load_images(
        config, 'train', label_key=config.noisy_label_key).gather(kept)['label']
    self.test = task.load_images(config, 'test')
    self.arrays = {
      'image': train['image'], 'clean': self.clean, 'validation': validation}
    self.standardize, self.model, self.loss = image_task.build(
      config, train['image'], self.num_classes, augment=config.augment)

  @functools.cache  # noqa: B019
  def labels(self, noise: float, seed: int) -> np.ndarray:
    """Make the labels to learn."""
    return data.flip_labels(self.given, noise, self.num_classes, seed)

  def program(self, arm: Arm, lanes: dict[str, np.ndarray]
              ) -> trainer.Program:
    """Train lanes of an arm.

    Args:
      arm: How to combine micro-gradients.
      lanes: 'noise', 'threshold', 'rate' and 'seed' [L]; where the arm has a
        partner, 'sizes' [L, stages, k + 1], what that let through.
    """
    config = self.config
    streams = list(zip(lanes['noise'].tolist(), lanes['seed'].tolist()))
    lanes = lanes | {'labels': np.stack([self.labels(*s) for s in streams])}
    if arm.partner:
      sizes = lanes['sizes']
      lanes |= {'sizes': sizes.astype(np.float32),
                'max_updates': sizes[:, :, 1:].sum((1, 2)).astype(np.int32)}

    def draw(stream, steps):
      noise, seed = stream
      return data.balanced_order(
        seed, steps,
        self.labels(noise, seed) if arm.balance == 'noisy' else self.clean,
        num_classes=self.num_classes, per_class=config.per_class,
        num_batches=config.num_workers)

    return task.program(
      self.model, lanes, arrays=self.arrays, draw=draw, streams=streams,
      make_optimizer=lambda lane: rules.make_optimizer(
        lane['rate'], rules.build(arm.rule, lane, config.every),
        key=trainer.key_for(lane['seed'], 'filter'),
        axis_name=config.workers().axis_name, num_workers=config.num_workers,
        momentum=config.momentum, weight_decay=config.weight_decay),
      batch=lambda arrays, lane, rows: {
        'image': arrays['image'][rows], 'label': lane['labels'][rows]},
      loss=self.loss, evaluate=self.evaluate, read=rules.read)

  def predict(self, params, images):
    """Name the class of each image."""
    return jax.lax.map(
      lambda image: self.model.apply(params, self.standardize(image)).argmax(),
      images, batch_size=min(self.config.eval_batch_size, len(images)))

  def evaluate(self, arrays, lane, params):
    """Compute the validation accuracy, and how much noise is memorized.

    That is, of wrong labels, the share that is predicted: among the first of
    the training set, as many as are held out.
    """
    held = arrays['validation']
    count = min(len(held['label']), len(arrays['image']))
    wrong = lane['labels'][:count] != arrays['clean'][:count]
    predicted = self.predict(params, arrays['image'][:count])
    memorized = wrong & (predicted == lane['labels'][:count])
    return {
      'validation': jnp.mean(
        self.predict(params, held['image']) == held['label']),
      'memorized': memorized.sum() / wrong.sum()}

  def finish(self, state, lanes) -> dict[str, np.ndarray]:
    """Compute the test accuracy of all lanes; rates are not chosen by it."""
    del lanes
    return {'test': task.test_accuracy(
      self.model, self.standardize, state['params'], self.test,
      at_once=self.config.eval_batch_size)}
