"""How gradient diversity limits the batch size of a real network.

  python -m experiments.gradient_diversity --workdir=runs/gradient_diversity

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, on the
embedded digits: about two minutes on two CPU cores. Of the training set a
random 1/r is kept and repeated r times, which lowers its diversity (their
section 6), and mini-batch SGD is tuned for each batch size and r. Four
questions, a figure each:

  diversity   How large is B_S along the training, as tracked by the workers,
              with its confidence band, and over the whole set?
  loss_ratio  After equal numbers of data passes, how much higher is the loss
              of large batches than of the smallest? (their Figure 2)
  speed       How many gradient evaluations, and steps, does a target loss
              take, and what does the measured B_S predict?
  stability   How far apart do two runs end whose training sets differ in one
              example? (their Figure 3)

What the paper leaves open, and this chooses: sampling with replacement (its
equation 2), plain SGD, a learning rate on the *mean* gradient from a grid,
tuned for each cell by what the figure shows.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import config as config_lib
from experiments import data, diversity_report, models, stopping, trainer
from experiments.config import flag


@dataclasses.dataclass(frozen=True)
class Config(config_lib.Config):
  """The flags of this experiment."""

  num_seeds: int = flag(4, 'independent runs of each setting')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  image_size: int = flag(0, 'scale and crop images to this; needed where '
                         'they differ in size')
  train_examples: int = flag(1024, 'how many examples to train on')
  batch_sizes: tuple[int, ...] = flag(
    (16, 32, 64, 128, 256, 512, 1024), 'total over the workers; each divides '
    'train_examples; the first is what the others are compared to')
  replications: tuple[float, ...] = flag(
    (1.0, 2.0, 4.0, 8.0), 'r: a random 1/r of the set, repeated r times')
  learning_rates: tuple[float, ...] = flag(
    (0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.13, 1.6),
    'the grid, on the mean gradient')
  passes: int = flag(48, 'over the training set, for each run')
  target_loss: float = flag(0.1, 'training loss that `speed` measures up to')
  reference_batch_size: int = flag(16, 'at which the diversity is tracked')
  decay: float = flag(0.95, 'of the averages of the tracked moments')
  num_twins: int = flag(16, 'pairs of runs for `stability`')
  sampling: str = flag('replacement', "'replacement' (the paper) or 'epoch'")
  label_noise: float = flag(0.0, 'share of the labels to flip')
  augment: bool = flag(False, 'random crops and flips, as usual for CIFAR')
  eval_batch_size: int = flag(1024, 'examples evaluated at once; divides '
                              'train_examples')
  exact: bool = flag(True, 'also compute B_S over the whole set')

  def __post_init__(self):
    super().__post_init__()
    check = config_lib.check
    check(self.batch_sizes, 'batch_sizes', f'divisors of --train_examples='
          f'{self.train_examples}, rising', lambda sizes: sizes == tuple(
            sorted(sizes)) and all(
              b > 0 and self.train_examples % b == 0 for b in sizes))
    check(self.reference_batch_size, 'reference_batch_size',
          'one of --batch_sizes', lambda b: b in self.batch_sizes)
    workers = self.num_workers
    check(self.reference_batch_size, 'reference_batch_size',
          f'a multiple of --num_workers={workers}', lambda b: b % workers == 0)
    check(self.replications, 'replications', 'at least 1 each, the first 1',
          lambda rs: rs[:1] == (1,) and all(r >= 1 for r in rs))
    check(self.learning_rates, 'learning_rates', 'positive',
          lambda rates: rates and all(rate > 0 for rate in rates))
    check(self.passes, 'passes', 'at least 2', lambda p: p >= 2)
    check(self.image_size, 'image_size', 'at least 0', lambda n: n >= 0)
    check(self.eval_batch_size, 'eval_batch_size', f'a divisor of '
          f'--train_examples={self.train_examples}, or larger',
          lambda b: b > 0 and self.train_examples % min(
            b, self.train_examples) == 0)
    check(self.num_twins, 'num_twins', 'at least 1', lambda n: n >= 1)
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    check(self.sampling, 'sampling', "'replacement' or 'epoch'",
          lambda s: s in ('replacement', 'epoch'))


class Problem:
  """The data and the network, and the programs that train it."""

  def __init__(self, config: Config):
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


def make_optimizer(lane, config: Config, *, track: bool, axis_name):
  """Build plain SGD on the mean of the workers, tracked where asked."""
  # Batches smaller than the workers are still split; only tracking needs b.
  tracking = [gradiv.track_moments(
    axis_name, batch_size=config.reference_batch_size / config.num_workers,
    decay=config.decay)] if track else []
  return optax.chain(*tracking, gradiv.aggregate_by_mean(axis_name),
                     optax.sgd(lane['learning_rate']))


def read_tracked(opt_state) -> dict:
  """Flatten what `track_moments` knows into numbers to record."""
  estimate = optax.tree.get(opt_state, 'estimate')
  interval = optax.tree.get(opt_state, 'interval')
  return {
    'sq_norm': estimate.sq_norm,
    'variance': estimate.variance,
    'inverse_low': gradiv.inverse_batch_size_bound(interval.upper),
    'inverse_high': gradiv.inverse_batch_size_bound(interval.lower),
    'trusted': interval.trusted,
    'num_skipped': optax.tree.get(opt_state, 'num_skipped'),
  }


def distances(params) -> dict:
  """Compare the first half of the lanes with the second, pair by pair.

  sqrt(‖w − w'‖² / (‖w‖² + ‖w'‖²)), from 0 to √2.
  """
  flat = jnp.concatenate([x.reshape(len(x), -1)
                          for x in jax.tree.leaves(params)], 1)
  one, other = jnp.split(flat, 2)
  squares = lambda x: jnp.sum(x**2, 1)
  total = squares(one) + squares(other)
  return {'distance': jnp.sqrt(squares(one - other) / total)}


def lanes_of(problem: Problem, settings) -> dict:
  """Make lanes of (replication, learning rate, seed), in this order."""
  rows = {(r, s): problem.rows(r, s) for r, _, s in settings}
  return {
    'seed': np.array([s for _, _, s in settings], np.uint32),
    'learning_rate': np.array([rate for _, rate, _ in settings], np.float32),
    'rows': np.stack([rows[r, s] for r, _, s in settings]).astype(np.int32),
  }


def train_all(config: Config, stop: stopping.Stop) -> None:
  """Train whatever is not trained yet; all results go into records."""
  problem = Problem(config)
  workdir = pathlib.Path(config.workdir)
  seeds = range(config.seed, config.seed + config.num_seeds)
  per_pass = lambda size: config.train_examples // size

  def train(name, settings, lanes, size, *, track=False, every=None, **kwargs):
    workers = trainer.Workers(
      config.num_workers if track else 1,
      config.backend if track else 'vmap',
      config.lanes_at_once)
    every = every or per_pass(size)
    optimizer = functools.partial(
      make_optimizer, config=config, track=track, axis_name=workers.axis_name)
    trainer.train(
      problem.program(lanes, size, optimizer, **kwargs),
      trainer.Schedule(config.passes * per_pass(size), every,
                       config.save_seconds),
      workdir / name / f'batch_{size:05d}', workers=workers, stop=stop,
      config=config.defining() | {'part': name, 'settings': settings},
      title=f'{name}, batch {size}')

  grid = [(r, rate, s) for r in config.replications
          for rate in config.learning_rates for s in seeds]
  for size in config.batch_sizes:
    train('sweep', grid, lanes_of(problem, grid), size)
  tuned = diversity_report.tuned_rates(config)
  size = config.reference_batch_size
  settings = [(r, tuned[r, size], s)
              for r in config.replications for s in seeds]
  train('diversity', settings, lanes_of(problem, settings), size, track=True,
        every=max(1, per_pass(size) // 2), read=read_tracked,
        evaluate=(problem.evaluate_exactly if config.exact
                  else problem.evaluate))
  for size in config.batch_sizes:
    twins = range(config.seed, config.seed + config.num_twins)
    settings = [(1, tuned[1, size], s) for s in twins] * 2
    lanes = lanes_of(problem, settings)
    # The second half trains on a set in which one example is another.
    for lane, seed in enumerate(twins, config.num_twins):
      place = np.random.default_rng(seed).integers(config.train_examples)
      lanes['rows'][lane, place] = config.train_examples
    train('stability', settings, lanes, size, compare=distances)


def run(config: Config) -> dict:
  """Train, tabulate and draw; return the summary."""
  with stopping.listen() as stop:
    train_all(config, stop)
  return diversity_report.report(config)


if __name__ == '__main__':
  # By its name, so that its classes are not those of a module `__main__`.
  from experiments import gradient_diversity
  config_lib.run(gradient_diversity.run, gradient_diversity.Config)
