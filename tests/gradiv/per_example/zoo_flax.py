"""Layers of Flax Linen and NNX."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tests.gradiv.per_example.case import (
  BF16_TOLERANCE,
  N,
  Table,
  cross_entropy,
  square,
)

CASES = Table()


def linen(draw, module, *shape):
  """Fit a Linen module of one example."""
  params = drawn(draw, module, jnp.zeros(shape))
  return draw.regression(module.apply, params, *shape)


def drawn(draw, module, x):
  """Draw all parameters: initial zeros and ones would hide mistakes."""
  keys = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  shapes = jax.eval_shape(module.init, keys, x)
  return jax.tree.map(lambda p: draw(*p.shape), shapes)


@CASES.case
def linen_mlp(draw):
  return linen(draw, nn.Sequential([
    nn.Dense(6), nn.LayerNorm(), jnp.tanh, nn.Dense(2)]), 3)


@CASES.case
def linen_convolutions(draw):
  return linen(draw, nn.Sequential([
    nn.Conv(4, (3, 3)), nn.GroupNorm(2), nn.relu,
    nn.Conv(4, (3, 3), feature_group_count=4, strides=2),
    lambda x: nn.avg_pool(x, (2, 2)), nn.ConvTranspose(2, (2, 2), strides=2),
  ]), 8, 8, 2)


@CASES.case
def linen_attention(draw):
  return linen(draw, nn.MultiHeadDotProductAttention(2, qkv_features=4), 6, 4)


@CASES.case
def linen_lstm(draw):
  return linen(draw, nn.RNN(nn.OptimizedLSTMCell(3)), 6, 2)


class Layer(nn.Module):
  """A layer in the form that `nn.scan` requires."""

  @nn.compact
  def __call__(self, x, _):
    return x + nn.Dense(4)(nn.RMSNorm()(nn.tanh(nn.Dense(3)(x)))), None


class Stack(nn.Module):

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(
      nn.remat(Layer), {'params': 0}, split_rngs={'params': True}, length=3)
    return layers()(x, None)[0]


@CASES.case
def linen_scan_over_layers_with_remat(draw):
  return linen(draw, Stack(), 6, 4)


class LanguageModel(nn.Module):

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(8, 4)
    h = nn.DenseGeneral((2, 3))(embed(tokens))
    h = nn.DenseGeneral(4, axis=(-2, -1))(nn.tanh(h))
    return embed.attend(h)


@CASES.case
def linen_tied_embedding(draw):
  model = LanguageModel()
  loss_fn = lambda params, tokens: cross_entropy(
    model.apply(params, tokens[:-1]), tokens[1:])
  tokens = draw.integers(8, 7)
  return loss_fn, drawn(draw, model, tokens[0]), tokens


@CASES.case(tolerance=BF16_TOLERANCE)
def linen_in_bfloat16(draw):
  return linen(draw, nn.Sequential([
    nn.Dense(6, dtype=jnp.bfloat16), nn.tanh,
    nn.Dense(2, dtype=jnp.bfloat16), lambda x: x.astype(jnp.float32)]), 5, 3)


@CASES.case
def linen_dropout(draw):
  model = nn.Sequential([
    nn.Dense(8), nn.Dropout(0.4, deterministic=False), nn.Dense(2)])

  def loss_fn(params, e):
    out = model.apply(params, e['x'], rngs={'dropout': e['key']})
    return square(out - e['y'])

  return loss_fn, drawn(draw, model, jnp.zeros(3)), {
    'x': draw.batch(3), 'y': draw.batch(2),
    'key': jax.random.split(jax.random.key(2), N)}


@CASES.case
def linen_weight_norm(draw):
  class Model(nn.Module):

    @nn.compact
    def __call__(self, x):
      return jnp.tanh(nn.WeightNorm(nn.Dense(3))(x))

  return linen(draw, Model(), 6, 4)


def split(draw, make, *shape, of=nnx.Param):
  """Fit an NNX module to one example, split into graph and parameters."""
  model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  graph, params, rest = nnx.split(model, of, ...)
  fill = lambda p: abs(draw(*p.shape)).astype(p.dtype)
  rest = jax.tree.map(fill, rest)
  params = jax.tree.map(lambda p: draw(*p.shape), params)
  return draw.regression(
    lambda p, x: jnp.tanh(nnx.merge(graph, p, rest)(x)), params, *shape)


@CASES.case
def nnx_mlp(draw):
  return split(draw, lambda rngs: nnx.Sequential(
    nnx.Linear(3, 6, rngs=rngs), nnx.LayerNorm(6, rngs=rngs), nnx.silu,
    nnx.Linear(6, 2, rngs=rngs)), 5, 3)


@CASES.case
def nnx_convolutions_and_running_norm(draw):
  return split(draw, lambda rngs: nnx.Sequential(
    nnx.Conv(2, 4, (3, 3), rngs=rngs),
    nnx.BatchNorm(4, use_running_average=True, rngs=rngs), nnx.relu,
    nnx.Conv(4, 2, (2, 2), strides=2, rngs=rngs)), 4, 6, 2)


@CASES.case
def nnx_attention(draw):
  return split(draw, lambda rngs: nnx.MultiHeadAttention(
    2, in_features=4, qkv_features=4, decode=False, rngs=rngs), 6, 4)


@CASES.case
def nnx_low_rank(draw):
  return split(draw, lambda rngs: nnx.LoRA(
    3, 2, 4, base_module=nnx.Linear(3, 4, rngs=rngs), rngs=rngs), 6, 3,
    of=nnx.LoRAParam)


class Looped(nnx.Module):
  """Layers stacked by `nnx.vmap` and applied by `nnx.scan`."""

  def __init__(self, rngs):
    make = functools.partial(nnx.Linear, 4, 4)
    self.layers = nnx.vmap(lambda rngs: make(rngs=rngs))(rngs.split(3))

  def __call__(self, x):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, layer):
      return jnp.tanh(layer(x))

    return run(x, self.layers)


@CASES.case
def nnx_scan_over_layers(draw):
  return split(draw, Looped, 6, 4)
