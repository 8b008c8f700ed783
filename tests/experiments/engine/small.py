"""Two lanes of linear regression, whose arithmetic a test can repeat."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data
from experiments.engine import trainer

EXAMPLES, BATCH, STEPS = 32, 8, 24
# By axis name: what is compiled of programs that differ in lanes and data only.
COMPILED = collections.defaultdict(dict)
X = np.random.default_rng(2).normal(size=(EXAMPLES, 3)).astype(np.float32)


def loss(params, x, key):
  return jnp.mean((x @ params['w'] - x[:, 0])**2)


def program(axis='workers', rates=(0.1, 0.2), **changes):
  """Build the program; `changes` are fields of it."""
  is_plain = set(changes) <= {'lanes', 'data'}
  fields = dict(
    cache=COMPILED[axis] if is_plain else None,
    lanes={'seed': jnp.array([0, 1], jnp.uint32), 'order': jnp.array([0, 1]),
           'learning_rate': jnp.array(rates, jnp.float32)},
    data=jnp.asarray(X),
    init=lambda lane: {'w': jax.random.normal(
      trainer.key_for(lane['seed'], 'init'), (3,))},
    make_optimizer=lambda lane: optax.chain(
      gradiv.aggregate_by_mean(axis), optax.sgd(lane['learning_rate'])),
    fetch=lambda steps: np.stack([
      data.order(s, steps, BATCH, EXAMPLES, sampling='epoch')
      for s in (0, 1)]),
    batch=lambda arrays, lane, rows: arrays[rows],
    loss=loss,
    evaluate=lambda arrays, lane, params: {'norm': jnp.sum(params['w']**2)})
  return trainer.Program(**fields | changes)


def train(folder, schedule=None, workers=trainer.Workers(2), stop=None,
          config=None, options=None, **changes):
  """Train it; `options` are those of `trainer.train`."""
  return trainer.train(
    program(**changes), schedule or trainer.Schedule(STEPS, 4, 1e9), folder,
    config=config or {}, workers=workers, stop=stop, **options or {})
