"""The Flax NNX modules behind `experiments.models`.

Each takes the shape of one input, the number of classes and its own sizes,
and maps a batch to logits. None couples the examples of a batch: GroupNorm,
never BatchNorm, so that the gradient of one example is defined.
"""

import functools
import math

import jax.numpy as jnp
from flax import nnx
from jax import lax, nn

ACTIVATIONS = {'relu': nnx.relu, 'gelu': nnx.gelu, 'tanh': nnx.tanh}


class Mlp(nnx.Module):
  """Flatten, then dense layers; without hidden ones, softmax regression."""

  def __init__(self, input_shape, num_classes, *, rngs, hidden=(),
               activation='relu', use_bias=True):
    self.activation = ACTIVATIONS[activation]
    self.depth = len(hidden)
    width = math.prod(input_shape)
    # Layers by name and not in a list: a list would put integers among the
    # keys of the tree, which neither optax labels nor checkpoints like.
    for i, features in enumerate(hidden):
      setattr(self, f'dense_{i}', nnx.Linear(
          width, features, use_bias=use_bias, rngs=rngs))
      width = features
    self.out = nnx.Linear(width, num_classes, use_bias=use_bias, rngs=rngs)

  def __call__(self, x):
    x = x.reshape(x.shape[0], -1)
    for i in range(self.depth):
      x = self.activation(getattr(self, f'dense_{i}')(x))
    return self.out(x)


class ConvNet(nnx.Module):
  """conv · pool · conv · pool · dense layers, no normalization."""

  def __init__(self, input_shape, num_classes, *, rngs, size, pool, channels,
               hidden):
    height, width, depth = input_shape
    first, second = channels
    self.pool = pool
    self.conv_0 = nnx.Conv(depth, first, (size, size), rngs=rngs)
    self.conv_1 = nnx.Conv(first, second, (size, size), rngs=rngs)
    # Each pool halves and rounds up.
    pooled = (-(-height // 4), -(-width // 4), second)
    self.head = Mlp(pooled, num_classes, hidden=hidden, rngs=rngs)

  def __call__(self, x):
    for conv in (self.conv_0, self.conv_1):
      x = self.pool(nnx.relu(conv(x)), strides=(2, 2), padding='SAME')
    return self.head(x)


cnn = functools.partial(
    ConvNet, size=3,
    pool=functools.partial(nnx.avg_pool, window_shape=(2, 2)))

# Yin et al. name "cuda-convnet" and give no sizes; these are common ones,
# without the normalization of local responses.
cuda_convnet = functools.partial(
    ConvNet, size=5,
    pool=functools.partial(nnx.max_pool, window_shape=(3, 3)))


class ConvNorm(nnx.Module):
  """norm(conv(x)), in groups of channels within one example."""

  def __init__(self, before, after, size, strides, groups, *, rngs):
    self.conv = nnx.Conv(before, after, (size, size), strides=strides,
                         use_bias=False, rngs=rngs)
    self.norm = nnx.GroupNorm(after, num_groups=groups, rngs=rngs)

  def __call__(self, x):
    return self.norm(self.conv(x))


class Block(nnx.Module):
  """relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

  def __init__(self, before, after, strides, groups, *, rngs):
    self.layer_0 = ConvNorm(before, after, 3, strides, groups, rngs=rngs)
    self.layer_1 = ConvNorm(after, after, 3, 1, groups, rngs=rngs)
    self.projects = before != after
    if self.projects:
      self.shortcut = ConvNorm(before, after, 1, strides, groups, rngs=rngs)

  def __call__(self, x):
    y = self.layer_1(nnx.relu(self.layer_0(x)))
    return nnx.relu(y + (self.shortcut(x) if self.projects else x))


class Resnet18(nnx.Module):
  """The residual network for small images: stem 3x3 without pooling.

  He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_,
  2015, with the normalization of Wu and He, `Group Normalization
  <https://arxiv.org/abs/1803.08494>`_, 2018, in 32 groups at width 64.
  """

  def __init__(self, input_shape, num_classes, *, rngs, width):
    # At least two channels a group: with one, a feature map that has shrunk
    # to a single pixel would be normalized to zero.
    groups = math.gcd(width // 2, 32)
    self.stem = ConvNorm(input_shape[-1], width, 3, 1, groups, rngs=rngs)
    before = width
    for i in range(8):
      after = width * 2 ** (i // 2)
      setattr(self, f'block_{i}', Block(
          before, after, 1 if before == after else 2, groups, rngs=rngs))
      before = after
    self.out = nnx.Linear(before, num_classes, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.stem(x))
    for i in range(8):
      x = getattr(self, f'block_{i}')(x)
    return self.out(x.mean(axis=(1, 2)))


class Recurrence(nnx.Module):
  """One LSTM layer over time: [b, t, before] -> [b, t, hidden]."""

  def __init__(self, before, hidden, *, rngs):
    self.hidden = hidden
    self.input = nnx.Linear(before, 4 * hidden, rngs=rngs)
    self.recurrent = nnx.Linear(hidden, 4 * hidden, use_bias=False, rngs=rngs)

  def __call__(self, x):
    # The product with the inputs needs no history: one large product before
    # the scan instead of t small ones inside it.
    projected = jnp.swapaxes(self.input(x), 0, 1)

    def step(carry, inputs):
      cell, hidden = carry
      gates = inputs + self.recurrent(hidden)
      write, forget, read, value = jnp.split(gates, 4, axis=-1)
      # The one opens the gate at first, so that gradients reach back in time.
      cell = (nnx.sigmoid(forget + 1.0) * cell
              + nnx.sigmoid(write) * jnp.tanh(value))
      hidden = nnx.sigmoid(read) * jnp.tanh(cell)
      return (cell, hidden), hidden

    zeros = jnp.zeros((x.shape[0], self.hidden), projected.dtype)
    _, outputs = lax.scan(step, (zeros, zeros), projected)
    return jnp.swapaxes(outputs, 0, 1)


class Lstm(nnx.Module):
  """Embedding · LSTM layers · dense: the next character at every position."""

  def __init__(self, input_shape, num_classes, *, rngs, embed, hidden, layers):
    del input_shape  # Any length of text will do.
    self.layers = layers
    self.embed = nnx.Embed(num_classes, embed, rngs=rngs)
    for i in range(layers):
      setattr(self, f'lstm_{i}', Recurrence(
          embed if i == 0 else hidden, hidden, rngs=rngs))
    self.out = nnx.Linear(hidden, num_classes, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens)
    for i in range(self.layers):
      x = getattr(self, f'lstm_{i}')(x)
    return self.out(x)


class Attention(nnx.Module):
  """Each position reads itself and those before it, in several heads."""

  def __init__(self, width, heads, *, rngs):
    self.heads = heads
    self.read = nnx.Linear(width, 3 * width, rngs=rngs)
    self.write = nnx.Linear(width, width, rngs=rngs)

  def __call__(self, x):
    b, t, width = x.shape
    query, key, value = (
        part.reshape(b, t, self.heads, width // self.heads)
        for part in jnp.split(self.read(x), 3, axis=-1))
    mixed = nn.dot_product_attention(query, key, value, is_causal=True)
    return self.write(mixed.reshape(x.shape))


class AttentionLayer(nnx.Module):
  """x + attention(norm(x)), and then x + dense(gelu(dense(norm(x))))."""

  def __init__(self, width, heads, *, rngs):
    self.norm_0 = nnx.LayerNorm(width, rngs=rngs)
    self.attention = Attention(width, heads, rngs=rngs)
    self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
    self.dense_0 = nnx.Linear(width, 4 * width, rngs=rngs)
    self.dense_1 = nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x):
    x = x + self.attention(self.norm_0(x))
    return x + self.dense_1(nnx.gelu(self.dense_0(self.norm_1(x))))


class Transformer(nnx.Module):
  """Embeddings · layers of attention · norm · dense: the next token.

  Vaswani et al., `Attention Is All You Need
  <https://arxiv.org/abs/1706.03762>`_, 2017, normalized before each step as in
  Xiong et al., `On Layer Normalization in the Transformer Architecture
  <https://arxiv.org/abs/2002.04745>`_, 2020; its positions are learned.
  """

  def __init__(self, input_shape, num_classes, *, rngs, width, heads, layers):
    self.layers = layers
    self.embed = nnx.Embed(num_classes, width, rngs=rngs)
    self.positions = nnx.Embed(*input_shape, width, rngs=rngs)
    for i in range(layers):
      setattr(self, f'layer_{i}', AttentionLayer(width, heads, rngs=rngs))
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.out = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, tokens):
    # Rows of the whole table, and no look-up, which would scatter backwards.
    x = self.embed(tokens) + self.positions.embedding[None]
    for i in range(self.layers):
      x = getattr(self, f'layer_{i}')(x)
    return self.out(self.norm(x))
