"""Attention, mixtures of experts, and weights computed per example."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.gradiv.per_example.case import Table, cross_entropy, normed
from tests.gradiv.per_example.zoo_convs import conv

CASES = Table()


def attend(q, k, v, causal=False):
  """Attend over [positions, heads, width]."""
  scores = jnp.einsum('qhd,khd->hqk', q, k) / jnp.sqrt(float(q.shape[-1]))
  if causal:
    seen = jnp.tril(jnp.ones(scores.shape[1:], bool))
    scores = jnp.where(seen[None], scores, -1e9)
  return jnp.einsum('hqk,khd->qhd', jax.nn.softmax(scores), v)


def multi_head(p, x, causal=False):
  q, k, v = (jnp.einsum('ti,ihd->thd', x, p[name]) for name in 'qkv')
  return jnp.einsum('thd,hdo->to', attend(q, k, v, causal), p['o'])


def block(p, x, causal=False):
  """A transformer block with normalization in front."""
  h = normed(x) * p['scale'][0][None]
  x = x + multi_head(p['attention'], h, causal)
  h = normed(x) * p['scale'][1][None]
  h = jax.nn.gelu(h @ p['up'] + p['bias'][None])
  return x + h @ p['down']


def heads(draw, d=4, h=2, k=3):
  return {**{name: draw(d, h, k) for name in 'qkv'}, 'o': draw(h, k, d)}


def block_params(draw, d=4, wide=6):
  return {'attention': heads(draw, d), 'scale': (1 + draw(d), 1 + draw(d)),
          'up': draw(d, wide), 'bias': draw(wide), 'down': draw(wide, d)}


@CASES.case
def attention_of_heads(draw):
  return draw.regression(multi_head, heads(draw), 6, 4)


@CASES.case
def attention_across(draw):
  def net(p, x):
    q, k = jnp.einsum('ti,ihd->thd', x[:2], p['q']), x[2:] @ p['kv']
    k, v = jnp.split(k.reshape(-1, 2, 6), 2, -1)
    return jnp.einsum('thd,hdo->to', attend(q, k, v), p['o'])

  return draw.regression(net, {
    'q': draw(4, 2, 3), 'kv': draw(4, 12), 'o': draw(2, 3, 4)}, 7, 4)


@CASES.case
def attention_with_a_bias_of_distance(draw):
  def net(p, x):
    distance = jnp.arange(6)[:, None] - jnp.arange(6)[None]
    scores = x @ p['w'] @ x.T + p['bias'][distance + 5]
    return jax.nn.softmax(scores) @ x

  return draw.regression(net, {'w': draw(3, 3), 'bias': draw(11)}, 6, 3)


@CASES.case
def fused_weight_split(draw):
  def net(p, x):
    q, k, v = (x @ w for w in jnp.split(p['qkv'], 3, axis=1))
    return attend(*(a.reshape(6, 2, 2) for a in (q, k, v))
                  ).reshape(6, 4) @ p['o']

  return draw.regression(net, {'qkv': draw(4, 12), 'o': draw(4, 4)}, 6, 4)


@CASES.case
def fused_activation_split(draw):
  def net(p, x):
    qkv = (x @ p['qkv'] + p['bias'][None]).reshape(6, 3, 2, 2)
    return attend(*jnp.moveaxis(qkv, 1, 0)).reshape(6, 4) @ p['o']

  return draw.regression(
    net, {'qkv': draw(4, 12), 'bias': draw(12), 'o': draw(4, 4)}, 6, 4)


@CASES.case
def transformer_of_tokens(draw):
  def loss_fn(p, tokens):
    h = p['table'][tokens[:-1]] + p['place']
    for each in p['blocks']:
      h = block(each, h, causal=True)
    logits = normed(h) @ p['table'].T
    return cross_entropy(logits, tokens[1:]) / 6

  return loss_fn, {
    'table': draw(8, 4), 'place': draw(6, 4),
    'blocks': [block_params(draw, wide=5)],
  }, draw.integers(8, 7)


@CASES.case
def vision_transformer(draw):
  def net(p, x):
    h = conv(x, p['patch'], 2, 'VALID').reshape(-1, 4)
    h = jnp.concatenate([p['class'][None], h]) + p['place']
    return block(p['block'], h)[0] @ p['head']

  return draw.regression(net, {
    'patch': draw(2, 2, 3, 4), 'class': draw(4), 'place': draw(7, 4),
    'block': block_params(draw), 'head': draw(4, 3)}, 4, 6, 3)


@CASES.case
def rotary_positions(draw):
  def net(p, x):
    turn = jnp.exp(1j * jnp.arange(6.)[:, None] * jnp.array([[1., 0.1]]))
    as_complex = lambda h: jax.lax.complex(h[:, :2], h[:, 2:]) * turn
    q, k = as_complex(x @ p['q']), as_complex(x @ p['k'])
    return jax.nn.softmax(jnp.real(q @ jnp.conj(k).T)) @ (x @ p['v'])

  return draw.regression(
    net, {name: draw(3, 4) for name in 'qkv'}, 6, 3)


@CASES.case
def expert_of_a_label(draw):
  def loss_fn(p, e):
    h = jnp.tanh(e['x'] @ p['experts'][e['label']] + p['bias'][e['label']])
    return jnp.sum(jnp.square(h - e['y']))

  return loss_fn, {'experts': draw(3, 4, 2), 'bias': draw(3, 2)}, {
    'x': draw.batch(4), 'y': draw.batch(2), 'label': draw.integers(3)}


@CASES.case
def experts_weighted_by_a_gate(draw):
  def net(p, x):
    gate = jax.nn.softmax(x @ p['gate'])
    each = jnp.tanh(jnp.einsum('ti,eio->teo', x, p['experts']))
    return jnp.einsum('te,teo->to', gate, each)

  return draw.regression(
    net, {'gate': draw(3, 4), 'experts': draw(4, 3, 2)}, 6, 3)


@CASES.case
def experts_of_the_largest_gates(draw):
  def net(p, x):
    top, chosen = jax.lax.top_k(jax.nn.softmax(x @ p['gate']), 2)
    each = jnp.einsum('ti,tkio->tko', x, p['experts'][chosen])
    return jnp.sum(jnp.tanh(each) * top[..., None], 1)

  return draw.regression(
    net, {'gate': draw(3, 4), 'experts': draw(4, 3, 2)}, 6, 3)


@CASES.case
def hypernetwork(draw):
  def loss_fn(p, e):
    made = jnp.tanh(p['table'][e['task']] @ p['make']).reshape(4, 3)
    h = jnp.tanh(e['x'] @ made) @ p['out']
    return jnp.sum(jnp.square(h - e['y']))

  return loss_fn, {
    'table': draw(3, 2), 'make': draw(2, 12), 'out': draw(3, 2),
  }, {'task': draw.integers(3), 'x': draw.batch(6, 4),
      'y': draw.batch(6, 2)}


@CASES.case
def graph_network(draw):
  def loss_fn(p, e):
    h = e['x']
    for w in p['layers']:
      h = jnp.tanh(e['adjacency'] @ (h @ w))
    pooled = jax.ops.segment_sum(h, e['cluster'], 3)
    return cross_entropy(pooled @ p['head'], e['label'])

  return loss_fn, {
    'layers': [draw(3, 4), draw(4, 4)], 'head': draw(4, 2),
  }, {'x': draw.batch(6, 3), 'adjacency': np.abs(draw.batch(6, 6)) / 3,
      'cluster': draw.integers(3, 6), 'label': draw.integers(2, 3)}
