"""Two layers and a batch, with the gradients of all examples written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import helpers
from tests.gradiv.per_example import reference

RNG = np.random.default_rng(0)
DRAW = lambda *shape: np.float32(RNG.normal(size=shape))
PARAMS = {'in': {'w': DRAW(4, 5), 'b': DRAW(5)}, 'out': {'w': DRAW(5, 3)}}
BATCH = {'x': DRAW(7, 2, 4), 'y': DRAW(7, 3)}
N = 7
# A norm of gradients in the middle of those that there are.
MOST = 20.


def loss_fn(params, example):
  h = jnp.tanh(example['x'] @ params['in']['w'] + params['in']['b'][None])
  return jnp.sum(jnp.square(jnp.sum(h @ params['out']['w'], 0) - example['y']))


def mean_loss(params, batch):
  return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, batch))


@functools.cache
def written_out():
  """The gradients that the engine does not write out: a tree [n, ...]."""
  return reference.quick_jit(jax.vmap(jax.grad(loss_fn), (None, 0)))(
    PARAMS, BATCH)


@functools.cache
def truth():
  return reference.Truth(*reference.quick_jit(
    lambda p, b: reference.gradients(loss_fn, p, b))(PARAMS, BATCH))


def summed(weights):
  return jax.tree.map(lambda g: np.tensordot(
    np.asarray(weights, np.float64), np.float64(g), 1), written_out())


def assert_equal(actual, desired):
  helpers.assert_close(actual, desired, 1e-4, of_largest=1e-5)
