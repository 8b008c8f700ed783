"""Layers with many more features than positions.

With few features, the Gram matrix is cheaper from slices of the gradients; with
many, from inner products of the positions.
"""

import jax.numpy as jnp
from jax import lax

from tests.gradiv.per_example.case import Table, cross_entropy
from tests.gradiv.per_example.zoo_convs import conv

CASES = Table()


@CASES.case
def wide_dense_on_sequences(draw):
  net = lambda p, x: jnp.tanh(x @ p['w'] / 5) @ p['v']
  return draw.regression(net, {'w': draw(40, 48), 'v': draw(48, 40)}, 3, 40)


@CASES.case
def wide_conv_grouped(draw):
  net = lambda p, x: jnp.tanh(conv(x, p, feature_group_count=2) / 5)
  return draw.regression(net, draw(2, 3, 20, 80), 2, 2, 40)


@CASES.case(falls_back=('a summand that is no product',))
def wide_weight_used_thrice(draw):
  def net(p, x):
    h = jnp.tanh(x @ p['w'] / 5 + jnp.tanh(x.mean(0) @ p['w'] / 5)[None])
    return h @ p['w'].T + 0.1 * p['w'].sum(1)[None]

  return draw.regression(net, {'w': draw(40, 44)}, 2, 40)


@CASES.case
def wide_weight_fused_and_decayed(draw):
  net = lambda p, x: jnp.prod(jnp.stack(
    [jnp.tanh(x @ w / 5) for w in jnp.split(p, 3, 1)]), 0)
  loss_fn, params, batch = draw.regression(net, draw(40, 90), 2, 40)
  return (lambda p, e: loss_fn(p, e) + 0.05 * jnp.sum(jnp.square(p)), params,
          batch)


@CASES.case
def wide_scan(draw):
  def net(p, x):
    def step(h, x):
      h = jnp.tanh((x @ p['w'] + h @ p['u']) / 5)
      return h, h

    return lax.scan(step, jnp.zeros(44), x)[1]

  return draw.regression(net, {'w': draw(40, 44), 'u': draw(44, 44)}, 3, 40)


@CASES.case
def wide_embedding_tied(draw):
  def loss_fn(p, tokens):
    h = jnp.tanh(p['table'][tokens[:-1]] @ p['w'] / 5)
    return cross_entropy(h @ p['table'].T, tokens[1:])

  return loss_fn, {'table': draw(60, 40), 'w': draw(40, 40)}, (
    draw.integers(60, 4))
