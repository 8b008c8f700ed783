"""Dense layers, norms and biases; precision; leaves without gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.gradiv.per_example.case import (
  BF16_TOLERANCE,
  N,
  Table,
  cross_entropy,
  normed,
  square,
)

CASES = Table()


@CASES.case
def dense_on_vectors(draw):
  def net(p, x):
    h = jnp.tanh(x @ p['in']['kernel'] + p['in']['bias'])
    return h @ p['out']['kernel'] + p['out']['bias']

  return draw.regression(net, {
    'in': {'kernel': draw(6, 7), 'bias': draw(7)},
    'out': {'kernel': draw(7, 3), 'bias': draw(3)}}, 6)


@CASES.case
def dense_on_sequences(draw):
  net = lambda p, x: jnp.tanh(x @ p['w'] + p['b'][None]) @ p['v']
  return draw.regression(
    net, {'w': draw(3, 4), 'b': draw(4), 'v': draw(4, 2)}, 7, 3)


@CASES.case(falls_back=('reduce_sum',))
def dense_on_images(draw):
  net = lambda p, x: jax.nn.gelu(x @ p['w'] + p['b'][None, None])
  return draw.regression(net, {'w': draw(3, 4), 'b': draw(4)}, 2, 6, 3)


@CASES.case
def dense_of_as_many_features_as_examples(draw):
  net = lambda p, x: jnp.tanh(x @ p['w']) @ p['v']
  return draw.regression(net, {'w': draw(N, N), 'v': draw(N, N)}, N, N)


@CASES.case
def dense_from_the_left(draw):
  net = lambda p, x: p['v'] @ jnp.tanh(p['w'] @ x)
  return draw.regression(net, {'w': draw(4, 6), 'v': draw(3, 4)}, 6, 2)


@CASES.case
def dense_over_two_axes(draw):
  net = lambda p, x: jnp.einsum('thd,hdo->to', jnp.sin(x), p)
  return draw.regression(net, draw(2, 3, 4), 6, 2, 3)


@CASES.case
def dense_of_each_group(draw):
  net = lambda p, x: jnp.tanh(jnp.einsum('tgi,gio->tgo', x, p))
  return draw.regression(net, draw(3, 2, 4), 6, 3, 2)


@CASES.case
def dense_by_multiply_and_sum(draw):
  net = lambda p, x: jnp.tanh(jnp.sum(x[:, None] * p['w'], 0) + p['b'])
  return draw.regression(net, {'w': draw(4, 3), 'b': draw(3)}, 4)


@CASES.case
def swiglu(draw):
  net = lambda p, x: (jax.nn.silu(x @ p['a']) * (x @ p['b'])) @ p['c']
  return draw.regression(
    net, {'a': draw(3, 4), 'b': draw(3, 4), 'c': draw(4, 3)}, 6, 3)


@CASES.case
def maxout(draw):
  net = lambda p, x: jnp.max(jnp.einsum('i,iko->ko', x, p), 0)
  return draw.regression(net, draw(4, 3, 6), 4)


@CASES.case
def bilinear(draw):
  loss_fn = lambda p, e: jnp.square(e['x'] @ p @ e['y'] - 1)
  return loss_fn, draw(4, 3), {'x': draw.batch(4), 'y': draw.batch(3)}


@CASES.case
def bilinear_with_outputs(draw):
  net = lambda p, x: jnp.einsum('i,kij,j->k', x, p, jnp.cos(x))
  return draw.regression(net, draw(2, 4, 4), 4)


@CASES.case
def layer_norm(draw):
  def net(p, x):
    h = normed(x @ p['w']) * p['scale'][None] + p['bias'][None]
    return jnp.tanh(h) @ p['v']

  return draw.regression(net, {
    'w': draw(3, 4), 'scale': 1 + draw(4), 'bias': draw(4), 'v': draw(4, 2),
  }, 6, 3)


@CASES.case(falls_back=('reduce_sum',))
def rms_norm(draw):
  def net(p, x):
    rms = jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return jnp.tanh(x / rms * (1 + p['scale'])[None]) @ p['w']

  return draw.regression(net, {'scale': draw(4), 'w': draw(4, 3)}, 6, 4)


@CASES.case(falls_back=('add_any', 'reduce_sum'))
def biases_of_positions_and_features(draw):
  net = lambda p, x: jnp.tanh(
    x + p['place'] + p['feature'][None] + p['row'][:, None] + p['all'])
  return draw.regression(net, {
    'place': draw(6, 3), 'feature': draw(3), 'row': draw(6), 'all': draw(),
  }, 6, 3)


@CASES.case
def scalar_temperature(draw):
  def loss_fn(p, e):
    logits = e['x'] @ p['w'] * jnp.exp(p['log_scale']) / p['temperature']
    return cross_entropy(logits, e['y'])

  return loss_fn, {
    'w': draw(4, 3), 'log_scale': draw(), 'temperature': np.float32(0.7),
  }, {'x': draw.batch(4), 'y': draw.integers(3)}


@CASES.case
def deep_sets(draw):
  def net(p, x):
    encoded = jnp.tanh(x @ p['encoder'] + p['bias'][None])
    return jnp.tanh(encoded.sum(0) / 3) @ p['decoder']

  return draw.regression(net, {
    'encoder': draw(2, 4), 'bias': draw(4), 'decoder': draw(4, 3)}, 7, 2)


@CASES.case(falls_back=('add_any',))
def weight_decay_in_the_loss(draw):
  def loss_fn(p, e):
    fit = square(jnp.tanh(e['x'] @ p['w'] + p['b']) - e['y'])
    return fit + 0.1 * sum(map(square, jax.tree.leaves(p)))

  return loss_fn, {'w': draw(3, 2), 'b': draw(2)}, {
    'x': draw.batch(3), 'y': draw.batch(2)}


@CASES.case
def frozen_unused_and_integer_leaves(draw):
  def loss_fn(p, e):
    h = e['x'] @ jax.lax.stop_gradient(p['frozen'])
    h = jnp.tanh(h) @ p['w'] / p['steps']
    return cross_entropy(h, e['label'])

  return loss_fn, {
    'frozen': draw(4, 3), 'w': draw(3, 2), 'steps': np.int32(2),
    'unused': draw(3, 3), 'nothing': None, 'empty': draw(0, 3),
  }, {'x': draw.batch(4), 'label': draw.integers(2)}


@CASES.case(has_aux=True)
def auxiliary_outputs(draw):
  def loss_fn(p, e):
    logits = e['x'] @ p
    return cross_entropy(logits, e['label']), {
      'logits': logits, 'right': jnp.argmax(logits) == e['label']}

  return loss_fn, draw(4, 3), {'x': draw.batch(4), 'label': draw.integers(3)}


@CASES.case
def dropout_by_a_key_for_each_example(draw):
  def loss_fn(p, e):
    h = jnp.tanh(e['x'] @ p['w'])
    keep = jax.random.bernoulli(e['key'], 0.7, h.shape)
    return square(jnp.where(keep, h / 0.7, 0) @ p['v'] - e['y'])

  return loss_fn, {'w': draw(3, 8), 'v': draw(8, 2)}, {
    'x': draw.batch(3), 'y': draw.batch(2),
    'key': jax.random.split(jax.random.key(0), N)}


@CASES.case(tolerance=BF16_TOLERANCE)
def bfloat16_compute(draw):
  def net(p, x):
    w, b, v = (p[k].astype(jnp.bfloat16) for k in 'wbv')
    h = jnp.tanh(x.astype(jnp.bfloat16) @ w + b[None])
    return (h @ v).astype(jnp.float32)

  return draw.regression(
    net, {'w': draw(4, 6), 'b': draw(6), 'v': draw(6, 3)}, 7, 4)


@CASES.case(tolerance=BF16_TOLERANCE)
def bfloat16_params(draw):
  net = lambda p, x: (
    jnp.tanh(x @ p['w'] + p['b'][None]) @ p['v']).astype(jnp.float32)
  return draw.regression(net, {
    'w': draw(4, 6, dtype=jnp.bfloat16), 'b': draw(6, dtype=jnp.bfloat16),
    'v': draw(6, 3, dtype=jnp.bfloat16)}, 7, 4, dtype=jnp.bfloat16)


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=('weight', 'bias'),
  meta_fields=('activation',))
@dataclasses.dataclass(frozen=True)
class Linear:
  """A layer that is both a pytree and a function, as in Equinox."""

  weight: jax.Array
  bias: jax.Array | None
  activation: str = 'identity'

  def __call__(self, x):
    y = self.weight @ x
    y = y if self.bias is None else y + self.bias
    return getattr(jax.nn, self.activation)(y)


@CASES.case
def modules_that_are_trees(draw):
  net = lambda p, x: functools.reduce(lambda h, layer: layer(h), p, x)
  return draw.regression(net, [
    Linear(draw(6, 4), draw(6), 'tanh'), Linear(draw(6, 6), None, 'silu'),
    Linear(draw(2, 6), draw(2))], 4)
