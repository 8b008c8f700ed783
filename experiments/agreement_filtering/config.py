"""Does filtering micro-gradients by their agreement help against label noise?

  python -m experiments.agreement_filtering --workdir=runs/agreement_filtering

Chaubard, Eddy, Kochenderfer, `Beyond Gradient Averaging in Parallel
Optimization: Improved Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024, on the embedded digits: a few
minutes on two CPU cores. Each step takes class-balanced micro-batches, of
which a share of the labels is wrong, and filters their gradients by cosine
distance before it averages them. Three questions, a figure each:

  accuracy   How accurate is what was trained, by the share of wrong labels, for
             the mean, the four ways to filter, the geometric median, and for
             the controls: blind filtering at the same rate, as many updates,
             micro-batches balanced by the true labels?
  distances  How far apart are micro-gradients along the training, how many
             steps does the filter skip, and what is memorized?
  thresholds Which threshold does each way to filter want?

The learning rate is tuned for each arm, threshold and noise, on a part of the
training set that is held out (with its true labels). The test set is read once,
in the end, for the rates chosen. What the largest rate gives, at which the mean
memorizes, is told beside it. Sampling and optimizer are those of the paper's
code, but for its weight decay of 1e-2, with which nothing is memorized here;
what it leaves open, and this chooses: a fixed learning rate, a fixed number of
steps, the final parameters.
"""

import dataclasses
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  agreement_arms,
  agreement_report,
  config as config_lib,
  data,
  models,
  records,
  stopping,
  trainer,
)
from experiments.config import flag
from gradiv import weightings


@dataclasses.dataclass(frozen=True)
class Config(config_lib.Config):
  """The flags of this experiment."""

  num_workers: int = flag(4, 'k, micro-batches of a step')
  num_seeds: int = flag(4, 'independent runs of each setting')
  per_class: int = flag(1, 'm, examples of each class in a micro-batch')
  model_options: str = flag('{"hidden": [64]}', 'sizes of the model, as JSON')
  image_size: int = flag(0, 'scale and crop images to this; needed where '
                         'they differ in size')
  train_examples: int = flag(0, 'how many to train on, the first that are not '
                             'held out; 0: all')
  noise_rates: tuple[float, ...] = flag(
    (0.0, 0.2, 0.4, 0.6), 'shares of the labels to flip to another class')
  noisy_label_key: str = flag('', 'the label of TFDS to train on, where a set '
                              'comes with noise of its own; --noise_rates is '
                              'then 0')
  combines: tuple[str, ...] = flag(
    weightings.COMBINE, 'ways to filter, running_mean among them; of two '
    'micro-batches all are the same')
  thresholds: tuple[float, ...] = flag(
    (0.9, 0.97, 1.0), 'largest cosine distances, for each way to filter')
  control_threshold: float = flag(0.9, 'the one that the controls go with')
  learning_rates: tuple[float, ...] = flag(
    (0.003, 0.01, 0.03), 'the grid, rising, for each arm')
  momentum: float = flag(0.9, "Nesterov's")
  weight_decay: float = flag(5e-4, 'added to the gradient behind the filter')
  steps: int = flag(1000, 'of each run, skipped ones included')
  num_records: int = flag(10, 'along a run; divides steps')
  validation_examples: int = flag(288, 'held out of the training set')
  augment: bool = flag(False, 'random crops and flips, as usual for CIFAR')
  eval_batch_size: int = flag(1024, 'examples evaluated at once; divides '
                              'validation_examples, or is larger')

  def __post_init__(self):
    super().__post_init__()
    check = config_lib.check
    check(self.num_workers, 'num_workers', 'at least 2', lambda k: k >= 2)
    check(self.per_class, 'per_class', 'at least 1', lambda m: m >= 1)
    check(self.image_size, 'image_size', 'at least 0', lambda n: n >= 0)
    check(self.noise_rates, 'noise_rates', 'shares from 0 to 1, rising',
          lambda rates: rates and list(rates) == sorted(set(rates)) and all(
            0 <= rate <= 1 for rate in rates))
    if self.noisy_label_key:
      check(self.noise_rates, 'noise_rates', '0 alone with --noisy_label_key',
            lambda rates: rates == (0,))
    check(self.combines, 'combines', f'some of {weightings.COMBINE}, '
          f'{agreement_arms.FILTER} among them', lambda names:
          agreement_arms.FILTER in names and set(names) <= set(
            weightings.COMBINE))
    check(self.thresholds, 'thresholds', 'cosine distances from 0 to 2',
          lambda taus: taus and all(0 <= tau <= 2 for tau in taus))
    check(self.control_threshold, 'control_threshold', 'one of --thresholds',
          lambda tau: tau in self.thresholds)
    check(self.learning_rates, 'learning_rates', 'positive and rising',
          lambda rates: rates and rates[0] > 0 and list(rates) == sorted(
            set(rates)))
    check(self.momentum, 'momentum', 'from 0 to below 1',
          lambda beta: 0 <= beta < 1)
    check(self.weight_decay, 'weight_decay', 'at least 0', lambda w: w >= 0)
    check(self.num_records, 'num_records', f'a divisor of --steps={self.steps}',
          lambda n: n >= 1 and self.steps >= n and self.steps % n == 0)
    check(self.validation_examples, 'validation_examples', 'at least 1',
          lambda n: n >= 1)
    check(self.eval_batch_size, 'eval_batch_size', 'a divisor of '
          f'--validation_examples={self.validation_examples}, or larger',
          lambda b: b > 0 and self.validation_examples % min(
            b, self.validation_examples) == 0)

  @property
  def every(self) -> int:
    """Count the steps between two records."""
    return self.steps // self.num_records

  def arms(self) -> list[agreement_arms.Arm]:
    """List the arms, those that others need first."""
    return agreement_arms.list_arms(
      self.combines, self.thresholds, self.control_threshold, self.every)

  def settings(self, arm: agreement_arms.Arm) -> list[tuple]:
    """List (noise, threshold, learning rate, seed) of each lane of an arm."""
    seeds = range(self.seed, self.seed + self.num_seeds)
    return list(itertools.product(
      self.noise_rates, arm.thresholds, self.learning_rates, seeds))


class Problem:
  """The data and the network, and the programs that train it."""

  def __init__(self, config: Config):
    self.config = config
    load = functools.partial(
      data.load, config.dataset, data_dir=config.data_dir or None,
      image_size=config.image_size or None)
    examples = load('train')
    self.num_classes = examples.num_classes
    config_lib.check(
      config.validation_examples, 'validation_examples', f'below the '
      f'{len(examples)} of {config.dataset}', lambda n: n < len(examples))
    kept, held = data.hold_out(
      len(examples), config.validation_examples, seed=config.seed)
    config_lib.check(
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
      num_classes=self.num_classes, **config_lib.options(config))

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


def train_all(config: Config, stop: stopping.Stop) -> None:
  """Train whatever is not trained yet; then test what has been chosen."""
  problem, final = Problem(config), {}
  for arm in config.arms():
    workers = trainer.Workers(
      config.num_workers, config.backend, config.lanes_at_once)
    sizes = (agreement_report.partner_sizes(config, arm) if arm.partner
             else None)
    state = trainer.train(
      problem.program(arm, workers.axis_name, sizes),
      trainer.Schedule(config.steps, config.every, config.save_seconds),
      pathlib.Path(config.workdir) / arm.name, workers=workers, stop=stop,
      config=config.defining() | {'part': arm.name}, title=arm.name)
    final[arm.name] = state['params']
  tests = {}
  for arm in config.arms():
    # [noise, threshold, seed] -> lanes
    chosen = agreement_report.chosen_lanes(config, arm)
    lanes = jnp.asarray(chosen.ravel())
    accuracy = problem.test_accuracy(
      jax.tree.map(lambda x: x[lanes], final[arm.name]))
    tests[arm.name] = accuracy.reshape(chosen.shape).tolist()
  records.write_whole(pathlib.Path(config.workdir) / 'test.json', tests)


def run(config: Config) -> dict:
  """Train, test, tabulate and draw; return the summary."""
  with stopping.listen() as stop:
    train_all(config, stop)
  return agreement_report.report(config)


if __name__ == '__main__':
  # By its name, so that its classes are not those of a module `__main__`.
  from experiments import agreement_filtering
  config_lib.run(agreement_filtering.run, agreement_filtering.Config)
