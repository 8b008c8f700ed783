"""The data and the network of `agreement_filtering`, for a trainer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, models
from experiments.agreement_filtering import arms as agreement_arms
from experiments.agreement_filtering.config import Config
from experiments.common import flags
from experiments.engine import trainer


class Problem:
  """The data and the network, and the programs that train it."""

  def __init__(self, config: Config):
    self.config = config
    load = functools.partial(
      data.load, config.dataset, data_dir=config.data_dir or None,
      image_size=config.image_size or None)
    examples = load('train')
    self.num_classes = examples.num_classes
    flags.check(
      config.validation_examples, 'validation_examples', f'below the '
      f'{len(examples)} of {config.dataset}', lambda n: n < len(examples))
    kept, held = data.hold_out(
      len(examples), config.validation_examples, seed=config.seed)
    flags.check(
      config.train_examples, 'train_examples', f'at most the {len(kept)} that '
      'are not held out', lambda n: 0 <= n <= len(kept))
    kept = kept[:config.train_examples or None]
    train, validation = examples.gather(kept), examples.gather(held)
    self.clean = train['label']
    self.given = (load('train', label_key=config.noisy_label_key)
                  .gather(kept)['label'] if config.noisy_label_key
                  else self.clean)
    self.test = load('test')
    mean, std = data.channel_statistics(train['image'])
    self.standardize = functools.partial(data.standardize, mean=mean, std=std)
    self.arrays = jax.tree.map(jnp.asarray, {
      'image': train['image'], 'clean': self.clean, 'validation': validation})
    self.model = models.build(
      config.model, input_shape=train['image'].shape[1:],
      num_classes=self.num_classes, **flags.options(config))

  @functools.cache  # noqa: B019
  def labels(self, noise: float, seed: int) -> np.ndarray:
    """Make the labels to learn."""
    return data.flip_labels(self.given, noise, self.num_classes, seed)

  def program(self, arm: agreement_arms.Arm, axis_name, sizes=None):
    """Train an arm; `sizes` is what its partner let through, by stage."""
    config, settings = self.config, self.config.settings(arm)
    noise, thresholds, rates, seeds = map(np.array, zip(*settings))
    streams = sorted({(noise, seed) for noise, _, _, seed in settings})
    lanes = {
      'seed': seeds.astype(np.uint32),
      'order': np.array([streams.index((s[0], s[3])) for s in settings]),
      'threshold': thresholds.astype(np.float32),
      'learning_rate': rates.astype(np.float32),
      'labels': np.stack([self.labels(s[0], s[3]) for s in settings]),
    }
    if arm.partner:
      lanes['sizes'] = sizes.astype(np.float32)
      lanes['max_updates'] = sizes[:, :, 1:].sum((1, 2)).astype(np.int32)

    def fetch(steps):
      return np.stack([data.balanced_order(
        seed, steps,
        self.labels(noise, seed) if arm.balance == 'noisy' else self.clean,
        num_classes=self.num_classes, per_class=config.per_class,
        num_batches=config.num_workers) for noise, seed in streams])

    return trainer.Program(
      lanes=jax.tree.map(jnp.asarray, lanes),
      data=self.arrays,
      init=lambda lane: self.model.init(
        trainer.key_for(lane['seed'], 'init')),
      make_optimizer=lambda lane: agreement_arms.make_optimizer(
        lane, arm, key=trainer.key_for(lane['seed'], 'filter'),
        axis_name=axis_name, num_workers=config.num_workers,
        momentum=config.momentum, weight_decay=config.weight_decay),
      fetch=fetch,
      batch=lambda arrays, lane, rows: {
        'image': arrays['image'][rows], 'label': lane['labels'][rows]},
      loss=self.loss, evaluate=self.evaluate, read=agreement_arms.read)

  def loss(self, params, batch, key):
    """Average the cross entropy over a micro-batch."""
    image = batch['image']
    if self.config.augment:
      image = data.augment_cifar(key, image)
    logits = self.model.apply(params, self.standardize(image))
    return models.cross_entropy(logits, batch['label'])

  def predict(self, params, images):
    """Name the class of each image, of a number that the batch divides."""
    size = min(self.config.eval_batch_size, len(images))
    parts = images.reshape(-1, size, *images.shape[1:])
    predict = lambda part: self.model.apply(
      params, self.standardize(part)).argmax(-1)
    return jax.lax.map(predict, parts).ravel()

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

  def test_accuracy(self, params) -> np.ndarray:
    """Compute the accuracy on the test set: [lanes]."""
    size, right = self.config.eval_batch_size, 0
    apply = jax.jit(lambda params, images: jax.lax.map(
      lambda p: self.model.apply(p, self.standardize(images)).argmax(-1),
      params))
    for start in range(0, len(self.test), size):
      batch = self.test.gather(
        np.arange(start, min(start + size, len(self.test))))
      predicted = np.asarray(apply(params, batch['image']))
      right += (predicted == batch['label'][None]).sum(1)
    return right / len(self.test)
