"""What `gradient_diversity --study=mechanisms` trains and measures."""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data, models
from experiments.engine import records, signals, trainer
from experiments.gradient_diversity import task
from experiments.gradient_diversity.mechanisms import analysis, arms
from gradiv import perturbations


def train_all(config, stop: signals.Stop) -> None:
  """Train and measure whatever is not there yet; all goes into records."""
  problem = task.Problem(config)
  params = train_reference(config, problem, stop)
  path = pathlib.Path(config.workdir) / 'bounds.json'
  if not path.exists():
    records.write_whole(path, measure_bounds(config, problem, params, stop))
  for mechanism, size in itertools.product(
      arms.mechanisms(config), config.batch_sizes):
    train_mechanism(config, problem, mechanism, size, stop)
  train_wires(config, problem, stop)


def train(config, problem, part, settings, size, schedule, make_optimizer,
          stop, num_workers, **kwargs):
  """Train lanes of (strength, learning rate, seed) on batches of one size."""
  workers = trainer.Workers(num_workers, config.backend, config.lanes_at_once)
  strengths, rates, seeds = map(np.array, zip(*settings))
  rows = problem.rows(1, config.seed)
  lanes = {
    'seed': seeds.astype(np.uint32),
    'learning_rate': rates.astype(np.float32),
    'strength': strengths.astype(np.float32),
    'rows': np.tile(rows.astype(np.int32), (len(settings), 1))}
  return trainer.train(
    problem.program(
      lanes, size, functools.partial(
        make_optimizer, axis_name=workers.axis_name), **kwargs),
    schedule, pathlib.Path(config.workdir) / part, workers=workers, stop=stop,
    config=config.defining() | {'part': part, 'settings': settings},
    title=part)


def steps_of(config, size: int) -> tuple[int, int]:
  """Choose how many steps to take at a batch size, and how often to look.

  Steps enough for --passes, and at least --least_steps, rounded up to whole
  chunks; a look for each quarter of a pass, and at most one a step.
  """
  per_pass = config.train_examples / size
  every = max(1, round(per_pass / 4))
  steps = max(config.least_steps, int(np.ceil(config.passes * per_pass)))
  return -(-steps // every) * every, every


def train_reference(config, problem, stop):
  """Train one network by plain SGD for two passes; return its parameters."""
  size = config.reference_batch_size
  steps = 2 * config.train_examples // size
  rate = sorted(config.learning_rates)[len(config.learning_rates) // 2]
  state = train(
    config, problem, 'reference', [(0., rate, config.seed)], size,
    trainer.Schedule(steps, steps, config.save_seconds),
    lambda lane, axis_name: optax.chain(
      gradiv.aggregate_by_mean(axis_name), optax.sgd(lane['learning_rate'])),
    stop, 1)
  return jax.tree.map(lambda x: x[0], state['params'])


def measure_bounds(config, problem, params, stop) -> list[dict]:
  """Measure B_S under each mechanism, beside what its formula says."""
  n, size = config.measured_examples, config.reference_batch_size

  def gradient(image, label):
    loss = lambda p: models.cross_entropy(
      problem.model.apply(p, problem.standardize(image[None])), label[None])
    return jax.grad(loss)(params)

  grads = jax.jit(jax.vmap(gradient))(
    *(jnp.asarray(problem.arrays[name][:n]) for name in ('image', 'label')))
  exact = gradiv.estimate(
    jax.vmap(lambda g: gradiv.worker_moments(g, 'examples'),
             axis_name='examples', out_axes=None)(grads), num_examples=n)
  num_parameters = sum(g[0].size for g in jax.tree.leaves(grads))
  cells, first = [], 0
  for mechanism in arms.mechanisms(config):
    quantized = [jax.vmap(lambda g: perturbations.quantized_sq_norm(g, s))(
      grads).mean() if mechanism.name.startswith('quantize') else None
      for s in mechanism.strengths]
    for draws in mechanism.draws:
      stop.check()
      key = trainer.key_for(config.seed, f'{draws} {mechanism.name}')
      # Batches of its own for each cell, that their errors be apart.
      count = len(mechanism.strengths) * config.measured_batches
      rows = data.order(config.seed, range(first, first + count), size, n,
                        sampling='replacement')
      first += count
      seen = arms.measure_bounds(
        grads, mechanism, draws, rows.reshape(
          len(mechanism.strengths), -1, size), key)
      for strength, q, signal, noise in zip(
          mechanism.strengths, quantized, *seen):
        cells.append({
          'mechanism': mechanism.name, 'strength': strength, 'draws': draws,
          'predicted': float(mechanism.bound(
            exact, strength, num_parameters, n, q, draws)),
          'sq_norm': signal.tolist(), 'variance': noise.tolist()})
  return cells


def train_mechanism(config, problem, mechanism, size, stop):
  """Train all strengths, rates and seeds of a mechanism at one batch size."""
  seeds = range(config.seed, config.seed + config.num_seeds)
  settings = list(itertools.product(
    map(float, mechanism.strengths), config.learning_rates, seeds))
  steps, every = steps_of(config, size)

  def make_optimizer(lane, axis_name):
    key = trainer.key_for(lane['seed'], 'mechanism')
    before = () if config.per_example else (
      mechanism.make(lane['strength'], key, axis_name),)
    return optax.chain(*before, gradiv.aggregate_by_mean(axis_name),
                       optax.sgd(lane['learning_rate']))

  def of_each_example(lane, params, batch, key):
    """Average what the mechanism makes of each example's gradient."""
    tx = mechanism.make(lane['strength'], key, 'examples')

    def one(example):
      loss, g = jax.value_and_grad(problem.loss)(
        params, jax.tree.map(lambda x: x[None], example),
        gradiv.worker_key(key, 'examples'))
      return loss, tx.update(g, tx.init(g))[0]

    return jax.tree.map(
      lambda x: x.mean(0), jax.vmap(one, axis_name='examples')(batch))

  train(config, problem, f'{mechanism.name}/batch_{size:05d}', settings, size,
        trainer.Schedule(steps, every, config.save_seconds), make_optimizer,
        stop, config.num_workers,
        gradient=of_each_example if config.per_example else None)


def train_wires(config, problem, stop):
  """Train on each wire; then read the test set, once for each rate chosen."""
  size = config.batch_sizes[0]
  steps, every = steps_of(config, size)
  seeds = range(config.seed, config.seed + config.bits_seeds)
  settings = [(0., rate, s) for rate in config.learning_rates for s in seeds]
  final = {}
  for arm in arms.wires():
    def make_optimizer(lane, axis_name, arm=arm):
      key = trainer.key_for(lane['seed'], 'wire')
      return optax.chain(
        arm.make(key, axis_name), optax.sgd(lane['learning_rate']))

    state = train(
      config, problem, f'wires/{arm.name}', settings, size,
      trainer.Schedule(steps, every, config.save_seconds), make_optimizer,
      stop, config.bits_workers,
      private=('opt_state',) if arm.feeds_back else ())
    final[arm.name] = state['params']
  tests = {}
  for arm in arms.wires():
    lanes = jnp.asarray(analysis.chosen_lanes(config, arm.name))
    tests[arm.name] = {
      'accuracy': problem.test_accuracy(jax.tree.map(
        lambda x: x[lanes], final[arm.name])).tolist(),
      'bits': arm.bits([x.shape[1:] for x in jax.tree.leaves(
        final[arm.name])], config.bits_workers)}
  records.write_whole(pathlib.Path(config.workdir) / 'test.json', tests)
