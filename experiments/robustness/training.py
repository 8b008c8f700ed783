"""Trains a network on digits with eight workers, one of which breaks.

What is kept of a training are the Gram matrices of its steps: all that the
alarm of `gradiv.weightings.with_alarm` sees.
"""

import functools
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data

NUM_WORKERS, BATCH_SIZE, BAD = 8, 16, 5
NUM_SEEDS, STEPS, BROKEN_STEPS = 8, 2048, 300
RATE, HIDDEN = 0.1, 32

# From the bad worker's gradient, the last one before it broke, and a key, to
# what it sends at each step.
SENT = {
  'zeros': lambda g, old, key: 0 * g,
  'the same gradient at each step': lambda g, old, key: old,
  'its gradient × 2': lambda g, old, key: 2 * g,
  'its gradient × 0.5': lambda g, old, key: g / 2,
  'its gradient × −1': lambda g, old, key: -g,
  'its gradient and noise as long': lambda g, old, key: g + _as_long(g, key),
}
# The share of all labels that are drawn anew and wrong at each step: without
# any, the network comes to fit its data, and few examples carry its gradient.
SETTINGS = {'data that are fitted': 0.0, 'noisy data': 0.1}
# The share of the bad worker's labels that are wrong.
WRONG_LABELS = {
  'all labels wrong': 1.0, '3 labels in 10 wrong': 0.3,
  '1 label in 10 wrong': 0.1}
LASTING = (*SENT, *WRONG_LABELS)


class Grams(NamedTuple):
  """Gram matrices of all steps, [seeds, steps, n, n].

  Attributes:
    healthy: Without a fault.
    broken: By fault, of the steps that follow if it begins then.
    flipped: The bad worker's row of them, [seeds, steps, 32, n], as if one bit
      had been flipped in one element of its gradient. Bits 0 to 22 are the
      mantissa, 23 to 30 the exponent, 31 is the sign.
    harms: [seeds, steps, 32], whether that moved the gradient by more than its
      length.
  """

  healthy: np.ndarray
  broken: dict[str, np.ndarray]
  flipped: np.ndarray
  harms: np.ndarray


def train(
  noise: float, num_seeds: int = NUM_SEEDS, steps: int = STEPS
) -> Grams:
  """Train without a fault, and from there with each.

  Args:
    noise: Share of all workers' labels that are wrong; see `SETTINGS`.
    num_seeds: Number of trainings.
    steps: Number of steps before a fault.
  """
  arrays = data.load('digits', 'train').arrays
  images = jnp.float32(arrays['image'].reshape(len(arrays['image']), -1)) / 255
  train_set = images, jnp.int32(arrays['label']), noise
  keys = jax.random.split(jax.random.key(0), num_seeds)
  weights = jax.vmap(lambda key: _init(key, images.shape[1]))(keys)
  each = lambda step, steps: jax.jit(jax.vmap(functools.partial(
    _scan, functools.partial(step, train_set), steps)))
  (weights, last), (healthy, flipped, harms) = each(_healthy_step, steps)(
    keys, (weights, jnp.zeros((num_seeds, _size(weights)))))
  broken = {}
  for fault in LASTING:
    step = functools.partial(_broken_step, fault=fault)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    broken[fault] = np.asarray(
      each(step, BROKEN_STEPS)(keys, (weights, last))[1])
  return Grams(np.asarray(healthy), broken, np.asarray(flipped),
               np.asarray(harms))


def _scan(step, steps, key, carry):
  return jax.lax.scan(step, carry, jax.random.split(key, steps))


def _size(weights):
  return sum(w[0].size for w in jax.tree.leaves(weights))


def _init(key, num_pixels):
  first, second = jax.random.split(key)
  return {'hidden': jax.random.normal(first, (num_pixels, HIDDEN)) / 8,
          'out': jax.random.normal(second, (HIDDEN, 10)) / 8}


def _loss(weights, images, labels):
  logits = jax.nn.relu(images @ weights['hidden']) @ weights['out']
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _gradients(train_set, weights, key, wrong: float = 0.0):
  """Draw a batch for each worker; return its gradients, [n, D]."""
  images, labels, noise = train_set
  draw, coin, other = jax.random.split(key, 3)
  shape = NUM_WORKERS, BATCH_SIZE
  rows = jax.random.randint(draw, shape, 0, len(labels))
  is_bad = jnp.arange(NUM_WORKERS)[:, None] == BAD
  limit = jnp.where(is_bad, jnp.maximum(wrong, noise), noise)
  is_wrong = jax.random.uniform(coin, shape) < limit
  moved = labels[rows] + jax.random.randint(other, shape, 1, 10)
  shown = jnp.where(is_wrong, moved % 10, labels[rows])
  grads = jax.vmap(jax.grad(_loss), (None, 0, 0))(weights, images[rows], shown)
  return jax.vmap(lambda g: jax.flatten_util.ravel_pytree(g)[0])(grads)


def _descend(weights, grads):
  _, unravel = jax.flatten_util.ravel_pytree(weights)
  return jax.tree.map(lambda w, g: w - RATE * g, weights,
                      unravel(grads.mean(0)))


def _healthy_step(train_set, carry, key):
  weights, _ = carry
  draw, flip = jax.random.split(key)
  grads = _gradients(train_set, weights, draw)
  own = grads[BAD]
  at = jax.random.randint(flip, (32,), 0, own.size)
  masks = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
  values = (own[at].view(jnp.uint32) ^ masks).view(jnp.float32)
  flipped = jax.vmap(lambda i, x: own.at[i].set(x))(at, values)
  rows = _products(flipped, grads).at[:, BAD].set((flipped**2).sum(1))
  moved = jnp.linalg.norm(flipped - own, axis=1)
  harms = ~(moved <= jnp.linalg.norm(own))  # NaN is more, too
  gram = _products(grads, grads)
  return (_descend(weights, grads), own), (gram, rows, harms)


def _broken_step(train_set, carry, key, fault):
  weights, old = carry
  draw, noise = jax.random.split(key)
  grads = _gradients(train_set, weights, draw, WRONG_LABELS.get(fault, 0.0))
  if fault in SENT:
    grads = grads.at[BAD].set(SENT[fault](grads[BAD], old, noise))
  return (_descend(weights, grads), old), _products(grads, grads)


def _products(rows, others):
  return jnp.matmul(rows, others.T, precision='highest')


def _as_long(g, key):
  noise = jax.random.normal(key, g.shape)
  return noise * jnp.linalg.norm(g) / jnp.linalg.norm(noise)
