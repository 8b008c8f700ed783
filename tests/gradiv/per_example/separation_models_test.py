"""Losses of Flax networks over a batch: which part into their examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from flax import linen as nn, nnx

from gradiv.per_example._separation import check_separate
from tests.gradiv.per_example.separation_test import in_parts, refusal

RNG = np.random.default_rng(1)
N = 3
IMAGES = jnp.float32(RNG.normal(size=(N, 6, 6, 2)))
TOKENS = jnp.int32(RNG.integers(0, 7, size=(N, 4)))
ROWS = jnp.float32(RNG.normal(size=(N, 4)))
LABELS = jnp.arange(N)
xent = optax.softmax_cross_entropy_with_integer_labels


class ConvNet(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.GroupNorm(2)(nn.Conv(4, (3, 3), strides=2)(x))
    x = nn.avg_pool(nn.max_pool(nn.relu(x), (2, 2), padding='SAME'), (2, 2))
    return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Recurrent(nn.Module):

  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(3)(nn.RNN(nn.LSTMCell(3))(nn.Embed(7, 3)(tokens))[:, -1])


class Transformer(nn.Module):

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(7, 4)
    x = embed(tokens) + self.param(
      'place', nn.initializers.normal(1), (1, tokens.shape[1], 4))
    x += nn.MultiHeadDotProductAttention(2)(
      nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
    x += nn.Dense(4)(nn.gelu(nn.Dense(5)(nn.RMSNorm()(x))))
    return embed.attend(x)


class Normalized(nn.Module):
  use_running_average: bool

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(self.use_running_average)(nn.Dense(4)(x))
    return nn.Dense(3)(nn.silu(x))


class Dropped(nn.Module):

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x)))


class NnxTransformer(nnx.Module):

  def __init__(self, rngs):
    self.embed = nnx.Embed(7, 4, rngs=rngs)
    self.norm = nnx.LayerNorm(4, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      2, 4, decode=False, deterministic=True, rngs=rngs)
    self.mlp = nnx.Sequential(
      nnx.Linear(4, 5, rngs=rngs), nnx.swish, nnx.Linear(5, 7, rngs=rngs))

  def __call__(self, tokens):
    x = self.embed(tokens)
    return self.mlp(x + self.attention(self.norm(x)))


class NnxNormalized(nnx.Module):

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 3, rngs=rngs)
    self.norm = nnx.BatchNorm(3, rngs=rngs)

  def __call__(self, x):
    return self.norm(self.linear(x))


def next_token(logits, tokens):
  return jnp.mean(xent(logits[:, :-1], tokens[:, 1:]))


def of_linen(model, x):
  """Return apply, and parameters that are neither zero nor one."""
  shapes = jax.eval_shape(
    model.init, {'params': jax.random.key(0), 'dropout': jax.random.key(0)}, x)
  draw = lambda s: jnp.float32(RNG.uniform(0.5, 1, s.shape))
  return model.apply, jax.tree.map(draw, shapes)


def of_nnx(model):
  graph, state = nnx.split(model(nnx.Rngs(0)))
  return lambda state, x: nnx.merge(graph, state)(x), state


class ModelsTest(parameterized.TestCase):

  def accept(self, loss_fn, params, batch):
    check_separate(loss_fn, params, batch)
    whole, mean = jax.jit(functools.partial(in_parts, loss_fn))(params, batch)
    np.testing.assert_allclose(whole, mean, 1e-5)

  @parameterized.parameters(
    (ConvNet(), IMAGES), (Recurrent(), TOKENS), (Normalized(True), ROWS))
  def test_classifiers(self, model, x):
    apply, params = of_linen(model, x)
    self.accept(lambda p, b: xent(apply(p, b[0]), b[1]).mean(), params,
                (x, LABELS))

  @pytest.mark.slow
  def test_language_models(self):
    for apply, params in (of_linen(Transformer(), TOKENS),
                          of_nnx(NnxTransformer)):
      self.accept(lambda p, x: next_token(apply(p, x), x), params, TOKENS)

  def test_dropout(self):
    apply, params = of_linen(Dropped(), ROWS)
    loss = lambda p, x, key: jnp.mean(apply(p, x, rngs={'dropout': key})**2)
    self.assertRegex(refusal(loss, params, ROWS, jax.random.key(0)),
                     r'random_bits at stochastic.py:\d+ draws for all examples')
    # With a key for each example it is theirs.
    one = lambda p, x, key: apply(p, x, rngs={'dropout': key})
    self.accept(
      lambda p, b: jnp.mean(jax.vmap(one, (None, 0, 0))(p, *b)**2), params,
      (ROWS, jax.random.split(jax.random.key(0), N)))

  def test_batch_statistics(self):
    apply, params = of_linen(Normalized(False), ROWS)
    loss = lambda p, x: jnp.mean(apply(p, x, mutable='batch_stats')[0]**2)
    message = (r'reduce_sum at normalization.py:\d+ adds over the examples, '
               r'and sub at normalization.py:\d+ uses the result for each')
    self.assertRegex(refusal(loss, params, ROWS), message)
    apply, state = of_nnx(NnxNormalized)
    self.assertRegex(refusal(
      lambda p, x: jnp.mean(apply(p, x)**2), state, ROWS), message)


if __name__ == '__main__':
  absltest.main()
