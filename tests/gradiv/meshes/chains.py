"""Ten chains, and the small network that they train."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import topology, weightings

KEY = jax.random.key(3)
# How the parameters are cut up over an axis 'model'.
SPECS = {'first': {'w': P(None, 'model'), 'b': P('model')},
         'second': {'w': P('model')}}


class Chain(NamedTuple):
  """A chain for one worker.

  Attributes:
    make: (axis name, number of workers, layout) -> transformation.
    private: What is private to a worker: '', the first 'state' of the chain,
      or 'all'.
    of_shards: Whether shards change the numbers: each draws, or selects, by
      itself.
  """

  make: Callable
  private: str = ''
  of_shards: bool = False

  @property
  def axes(self):
    """The axes of parameters and state: 0 if private, else None."""
    return {'': (None, None), 'state': (None, (0, None, None)),
            'all': (0, 0)}[self.private]


def _sgd(*chain):
  return optax.chain(*chain, optax.sgd(0.1, 0.9))


def _mean(axis, layout):
  return gradiv.aggregate_by_mean(axis, layout=layout)


CHAINS = {
  'mean': Chain(lambda axis, n, layout: _sgd(_mean(axis, layout))),
  'tracked': Chain(lambda axis, n, layout: _sgd(
    gradiv.track_moments(axis, batch_size=4, layout=layout),
    _mean(axis, layout))),
  'agreement': Chain(lambda axis, n, layout: optax.chain(
    gradiv.aggregate_by_agreement(0.97, axis, layout=layout),
    gradiv.skip_zero_updates(optax.adam(0.01)))),
  'agreement_key': Chain(lambda axis, n, layout: optax.chain(
    gradiv.aggregate_by_agreement(0.97, axis, key=KEY, layout=layout),
    gradiv.skip_zero_updates(optax.sgd(0.1, 0.9)))),
  'upgrad': Chain(lambda axis, n, layout: optax.chain(
    gradiv.aggregate_by_weights(weightings.upgrad(), axis, layout=layout),
    optax.adam(0.01))),
  'quantized': Chain(lambda axis, n, layout: _sgd(
    gradiv.aggregate_by_quantized_mean(8, axis, key=KEY, layout=layout)),
    of_shards=True),
  'delay': Chain(lambda axis, n, layout: _sgd(
    gradiv.delay_updates(2), _mean(axis, layout)), 'state'),
  'langevin': Chain(lambda axis, n, layout: _sgd(
    gradiv.add_langevin_noise(
      0.1, key=KEY, axis_name=axis,
      sharded_over=layout and layout.sharded_over),
    _mean(axis, layout)), of_shards=True),
  'gossip': Chain(lambda axis, n, layout: optax.chain(
    optax.sgd(0.1, 0.9),
    gradiv.mix_by_gossip(topology.ring(n), axis)), 'all'),
  'feedback': Chain(lambda axis, n, layout: _sgd(
    gradiv.with_error_feedback(gradiv.keep_top_k(0.5)),
    _mean(axis, layout)), 'state', of_shards=True),
  'by_layer': Chain(lambda axis, n, layout: _sgd(
    gradiv.aggregate_by_weights(weightings.upgrad(), axis, layout=gradiv.Layout(
      groups=gradiv.by_layer,
      sharded_over=layout and layout.sharded_over)))),
}


def params():
  """Return the parameters before the first step."""
  a, b = jax.random.split(jax.random.key(1))
  return {'first': {'w': jax.random.normal(a, (6, 16)) * 0.4,
                    'b': jnp.zeros(16)},
          'second': {'w': jax.random.normal(b, (16, 3)) * 0.4}}


def loss(params, x):
  """Compute the loss of a batch [B, 6]."""
  # A sum of an array along 'data' and one of type `reduced` has no type.
  bias = (0 * x[:, :1] + 1) @ params['first']['b'][None]
  hidden = jnp.tanh(x @ params['first']['w'] + bias)
  return jnp.mean((hidden @ params['second']['w'] - x[:, :3])**2)


def batches(n, steps=10):
  """Return the batches of n workers: [steps, n, 4, 6]."""
  return np.random.default_rng(0).normal(
    size=(steps, n, 4, 6)).astype(np.float32)
