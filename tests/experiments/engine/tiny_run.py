"""A small run that uses all that a resumed run must bring back.

  python -m tests.tiny_run WORKDIR [SECONDS_A_CHUNK]
"""

import collections
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data
from experiments.engine import signals, trainer

EXAMPLES = 48
STEPS, EVERY = 60, 4
# By axis name: what this process has compiled.
COMPILED = collections.defaultdict(dict)
IMAGES = np.random.default_rng(0).normal(size=(EXAMPLES, 5)).astype(np.float32)


def program(workers, sampling='epoch', batch_size=16, pause=0.0):
  """Three lanes: momentum, tracked averages, and noise in the loss."""
  axis = workers.axis_name

  def fetch(steps):
    time.sleep(pause)
    return np.stack([
      data.order(s, steps, batch_size, EXAMPLES, sampling=sampling)
      for s in (0, 1)])

  def loss(params, x, key):
    noisy = x + 0.1 * jax.random.normal(key, x.shape)
    return jnp.mean((jnp.tanh(noisy @ params['w']) - x[:, 0])**2)

  def make_optimizer(lane):
    return optax.chain(
      gradiv.track_moments(axis, batch_size=4, decay=0.9),
      gradiv.aggregate_by_mean(axis),
      optax.sgd(lane['learning_rate'], momentum=0.9))

  return trainer.Program(
    cache=COMPILED[axis],
    lanes={'seed': jnp.array([0, 1, 1], jnp.uint32),
           'order': jnp.array([0, 1, 1]),
           'learning_rate': jnp.array([0.1, 0.1, 0.3], jnp.float32)},
    data=jnp.asarray(IMAGES),
    init=lambda lane: {'w': jax.random.normal(
      trainer.key_for(lane['seed'], 'init'), (5,))},
    make_optimizer=make_optimizer,
    fetch=fetch,
    batch=lambda arrays, lane, rows: arrays[rows],
    loss=loss,
    evaluate=lambda arrays, lane, params: {
      'norm': jnp.sum(params['w']**2)},
    read=lambda state: {
      'sq_norm': gradiv.read_moments(state).average.sq_norm,
      'num_skipped': optax.tree.get(state, 'num_skipped')})


def run(workdir, *, steps=STEPS, stop=None, config=None, workers=None,
        save_seconds=0.0, **kwargs):
  """Train to `steps`; save after every chunk."""
  workers = workers or trainer.Workers(4)
  return trainer.train(
    program(workers, **kwargs), trainer.Schedule(steps, EVERY, save_seconds),
    workdir, config=config or {'name': 'tiny'}, workers=workers, stop=stop)


if __name__ == '__main__':
  with signals.listen() as stop_:
    print('ready', flush=True)
    try:
      run(sys.argv[1], stop=stop_, pause=float(sys.argv[2]))
    except signals.Interrupted as stopped:
      sys.exit(stopped.exit_code)
