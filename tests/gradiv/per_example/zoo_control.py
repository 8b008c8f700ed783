"""Weights inside scans, branches and loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.gradiv.per_example.case import Table, square
from tests.gradiv.per_example.zoo_attention import block, block_params

CASES = Table()


def rnn(p, x, **options):
  """Run a simple recurrence over time; return all states."""
  def step(h, x):
    h = jnp.tanh(x @ p['w'] + h @ p['u'] + p['b'])
    return h, h

  return lax.scan(step, jnp.zeros(4), x, **options)[1]


def rnn_params(draw, d=3):
  return {'w': draw(d, 4), 'u': draw(4, 4), 'b': draw(4)}


@CASES.case
def scan_rnn(draw):
  return draw.regression(rnn, rnn_params(draw), 6, 3)


@CASES.case
def scan_rnn_reversed(draw):
  net = lambda p, x: jnp.concatenate([
    rnn(p['there'], x), rnn(p['back'], x, reverse=True)], 1) @ p['out']
  return draw.regression(net, {
    'there': rnn_params(draw), 'back': rnn_params(draw),
    'out': draw(8, 2)}, 6, 3)


@CASES.case
def scan_rnn_unrolled(draw):
  net = functools.partial(rnn, unroll=4)
  return draw.regression(net, rnn_params(draw), 6, 3)


@CASES.case
def scan_lstm(draw):
  def net(p, x):
    def step(carry, x):
      h, c = carry
      gates = jnp.concatenate([x, h]) @ p['w'] + p['b']
      i, f, g, o = jnp.split(gates, 4)
      c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), None

    return lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[0][0]

  return draw.regression(net, {'w': draw(5, 12), 'b': draw(12)}, 6, 2)


@CASES.case
def scan_gru(draw):
  def net(p, x):
    def step(h, x):
      z, r = jnp.split(jax.nn.sigmoid(x @ p['w'] + h @ p['u']), 2)
      new = jnp.tanh(x @ p['wh'] + (r * h) @ p['uh'] + p['b'])
      return (1 - z) * h + z * new, h

    return lax.scan(step, p['first'], x)[1]

  return draw.regression(net, {
    'w': draw(2, 6), 'u': draw(3, 6), 'wh': draw(2, 3), 'uh': draw(3, 3),
    'b': draw(3), 'first': draw(3)}, 6, 2)


@CASES.case
def scan_over_layers(draw):
  def net(p, x):
    layer = lambda h, q: (jnp.tanh(h @ q['w'] + q['b'][None]), None)
    return lax.scan(layer, x, p)[0]

  return draw.regression(net, {'w': draw(3, 4, 4), 'b': draw(3, 4)}, 6, 4)


@CASES.case
def scan_over_transformer_blocks(draw):
  def net(p, x):
    layer = jax.checkpoint(lambda h, q: (block(q, h), None))
    return lax.scan(layer, x, p)[0]

  params = [block_params(draw) for _ in range(2)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
  return draw.regression(net, stacked, 3, 4)


@CASES.case
def scan_in_scan(draw):
  def net(p, x):
    def layer(h, q):
      return rnn({'w': q['w'], 'u': p['u'], 'b': q['b']}, h), None

    return lax.scan(layer, x, p['layers'])[0]

  return draw.regression(net, {
    'u': draw(4, 4), 'layers': {'w': draw(2, 4, 4), 'b': draw(2, 4)}}, 6, 4)


@CASES.case
def scan_in_remat(draw):
  net = lambda p, x: jax.checkpoint(rnn)(p, x) @ p['w'].T
  return draw.regression(net, rnn_params(draw), 6, 3)


@CASES.case
def remat_in_scan(draw):
  def net(p, x):
    @jax.checkpoint
    def step(h, x):
      h = jnp.tanh(x @ p['w'] + h @ p['u'] + p['b'])
      return h, h

    return lax.scan(step, jnp.zeros(4), x)[1]

  return draw.regression(net, rnn_params(draw), 6, 3)


@CASES.case
def remat_with_a_policy(draw):
  policy = jax.checkpoint_policies.dots_saveable

  def net(p, x):
    layer = jax.checkpoint(lambda w, h: jnp.tanh(jnp.sin(h) @ w),
                           policy=policy)
    return layer(p['v'], layer(p['w'], x))

  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)


@CASES.case
def scan_with_weights_carried(draw):
  def net(p, x):
    def step(carry, x):
      w, h = carry
      return (w, jnp.tanh(h @ w + x)), None

    return lax.scan(step, (p, jnp.zeros(3)), x)[0][1]

  return draw.regression(net, draw(3, 3), 6, 3)


@CASES.case
def scan_with_lookups_and_convolutions(draw):
  def loss_fn(p, e):
    def step(h, token):
      h = lax.conv_general_dilated(
        h[None, :, None] + p['table'][token][None, :, None], p['k'], (1,),
        'SAME', dimension_numbers=('NXC', 'XIO', 'NXC'))[0, :, 0]
      return jnp.tanh(h), None

    return square(lax.scan(step, e['h'], e['tokens'])[0])

  return loss_fn, {'table': draw(3, 4), 'k': draw(3, 1, 1)}, {
    'h': draw.batch(4), 'tokens': draw.integers(3, 6)}


@CASES.case
def cond_in_scan(draw):
  def net(p, x):
    def step(h, x):
      h = lax.cond(x[0] > 0, lambda h: jnp.tanh(h @ p['a'] + x),
                   lambda h: jnp.sin(h @ p['b']), h)
      return h, h

    return lax.scan(step, jnp.ones(3), x)[1]

  return draw.regression(net, {'a': draw(3, 3), 'b': draw(3, 3)}, 6, 3)


@CASES.case(falls_back=('mul', 'scan'))
def diagonal_state_space(draw):
  def net(p, x):
    decay = jnp.exp(-jax.nn.softplus(p['a']))

    def step(h, x):
      h = decay * h + x * p['b']
      return h, h @ p['c'] + x * p['d']

    return lax.scan(step, jnp.zeros(4), x)[1]

  return draw.regression(net, {
    'a': draw(4), 'b': draw(4), 'c': draw(4), 'd': draw()}, 6)


@CASES.case
def associative_scan(draw):
  def net(p, x):
    decay = jnp.broadcast_to(jax.nn.sigmoid(p['a'])[None], (6, 4))
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    return lax.associative_scan(join, (decay, x @ p['b']))[1] @ p['c']

  return draw.regression(
    net, {'a': draw(4), 'b': draw(2, 4), 'c': draw(4, 2)}, 6, 2)


@CASES.case
def fori_loop(draw):
  def net(p, x):
    step = lambda _, h: jnp.tanh(h @ p['w'] + x)
    return lax.fori_loop(0, 4, step, x) @ p['v']

  return draw.regression(net, {'w': draw(3, 3), 'v': draw(3, 2)}, 3)


@CASES.case
def map_over_positions(draw):
  net = lambda p, x: lax.map(lambda row: jnp.tanh(row @ p['w']) @ p['v'], x)
  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)


@CASES.case
def vmap_over_positions(draw):
  net = lambda p, x: jax.vmap(
    lambda row: jnp.tanh(row @ p['w']) @ p['v'], out_axes=1)(x)
  return draw.regression(net, {'w': draw(3, 4), 'v': draw(4, 2)}, 6, 3)


@CASES.case
def cond_by_the_example(draw):
  def net(p, x):
    h = jnp.tanh(x @ p['w'])
    return lax.cond(x[0] > 0, lambda h: jnp.tanh(h @ p['a']),
                    lambda h: jnp.sin(h @ p['w'][:, :2] + p['b']), h)

  return draw.regression(
    net, {'w': draw(3, 3), 'a': draw(3, 2), 'b': draw(2)}, 3)


@CASES.case
def cond_by_the_parameters(draw):
  def net(p, x):
    return lax.cond(p['w'][0, 0] > 0, lambda x: jnp.tanh(x @ p['w']),
                    lambda x: jnp.sin(x @ p['v']), x)

  return draw.regression(net, {'w': draw(3, 3), 'v': draw(3, 3)}, 6, 3)


@CASES.case
def switch_by_the_example(draw):
  def loss_fn(p, e):
    branches = [lambda x, w=w: jnp.tanh(x @ w) for w in p['each']]
    branches.append(lambda x: x[:2])
    out = lax.switch(e['which'], branches, e['x'] @ p['common'])
    return square(out - e['y'])

  return loss_fn, {'common': draw(4, 3), 'each': [draw(3, 2), draw(3, 2)]}, {
    'x': draw.batch(4), 'y': draw.batch(2),
    'which': np.int32([0, 1, 2, 1, 0])}
