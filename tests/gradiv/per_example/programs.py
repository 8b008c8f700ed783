"""Random losses: layers drawn from a pool, one after the other.

Between layers, the activations of an example are [t, d]. A layer is a name and
its sizes, so that one can read a program that fails; `OPS` holds the functions.
In addition, 'again' is an earlier layer with the same parameters, and 'back' a
dense layer with the transposed weight of an earlier one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.gradiv.per_example.case import normed, square

ACTIVATIONS = {'tanh': jnp.tanh, 'silu': jax.nn.silu, 'sin': jnp.sin,
               'relu': jax.nn.relu}
VOCABULARY = 3


class Layer(NamedTuple):
  """A layer, by name.

  Attributes:
    name: In `OPS`.
    shapes: Shapes of its own parameters.
    options: Further arguments of its function.
    inner: The layer that it wraps.
  """

  name: str
  shapes: tuple[tuple[int, ...], ...] = ()
  options: tuple = ()
  inner: Any = None


class Program(NamedTuple):
  """A loss: layers applied to x [t, d], compared with a target."""

  shape: tuple[int, int]
  layers: tuple[Layer, ...]
  seed: int
  examples: int


def dense(p, x, e):
  return x @ p[0]


def dense_of_a_sum(p, x, e):
  return jnp.sum(x[:, :, None] * p[0][None], 1)


def heads(p, x, e):
  q, k, v = (jnp.einsum('ti,ihd->htd', x, w) for w in p[:3])
  weights = jax.nn.softmax(q @ k.swapaxes(1, 2))
  return jnp.einsum('htd,hdo->to', weights @ v, p[3])


def conv(p, x, e, stride, dilation, padding, groups):
  return lax.conv_general_dilated(
    x[None], p[0], (stride,), padding, rhs_dilation=(dilation,),
    feature_group_count=groups, dimension_numbers=('NXC', 'XIO', 'NXC'))[0]


def scale(p, x, e):
  return x * p[0][None]


def bias(p, x, e):
  return x + jnp.broadcast_to(p[0], x.shape)


def norm(p, x, e):
  return normed(x) * (1 + p[0])[None] + p[1][None]


def embedding(p, x, e):
  return x + p[0][e['tokens'][:len(x)]]


def chosen(p, x, e):
  return x @ p[0][e['label']]


def recurrence(p, x, e, reverse):
  def step(h, x):
    h = jnp.tanh(x @ p[0] + h @ p[1] + p[2])
    return h, h

  return lax.scan(step, jnp.zeros(p[2].shape), x, reverse=reverse)[1]


def stacked(p, x, e):
  layer = lambda h, w: (jnp.tanh(h @ w), None)
  return lax.scan(layer, x, p[0])[0]


def laid_out(p, x, e, how):
  """Multiply by a weight that is stored in another form."""
  w = p[0]
  if how == 'transposed':
    w = w.T
  elif how == 'flat':
    w = w.reshape(x.shape[1], -1)
  elif how == 'sliced':
    w = w[1:, ::2]
  elif how == 'padded':
    w = jnp.pad(w, ((0, 0), (1, 0)))
  elif how == 'joined':
    w = jnp.concatenate([w, p[1]], 1)
  elif how == 'reversed':
    w = jnp.flip(w, 0)
  elif how == 'nonlinear':
    w = jnp.sinh(w)
  elif how == 'shifted':
    w = p[1][0] * w + jnp.eye(*w.shape)
  return x @ w


def split(p, x, e):
  a, b = jnp.split(x @ p[0], 2, 1)
  return a * jnp.tanh(b)


def activation(p, x, e, name):
  return ACTIVATIONS[name](x)


def pooled(p, x, e, kind):
  y = x[:len(x) // 2 * 2].reshape(-1, 2, x.shape[1])
  return y.max(1) if kind == 'max' else y.mean(1)


def residual(p, x, e, inner):
  return x + inner(p, x, e)


def remat(p, x, e, inner):
  return jax.checkpoint(inner)(p, x, e)


def jitted(p, x, e, inner):
  return jax.jit(inner)(p, x, e)


def either(p, x, e, inner):
  return lax.cond(
    e['x'][0, 0] > 0, lambda x: inner(p, x, e),
    lambda x: inner([2 * w for w in p], jnp.sin(x), e), x)


OPS = {f.__name__: f for f in (
  dense, dense_of_a_sum, heads, conv, scale, bias, norm, embedding, chosen,
  recurrence, stacked, laid_out, split, activation, pooled, residual, remat,
  jitted, either)}


def apply(layer, own, x, example):
  """Run a layer with its own parameters."""
  if layer.inner is not None:
    inner = lambda p, x, e: apply(layer.inner, p, x, e)
    return OPS[layer.name](own, x, example, inner)
  return OPS[layer.name](own, x, example, *layer.options)


def build(program):
  """Make ``loss_fn(params, example)``, parameters and a batch."""
  rng = np.random.default_rng(program.seed)
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  params = []
  for layer in program.layers:
    if layer.name not in ('again', 'back'):
      params.append([draw(*s) / np.float32(np.prod(s[:-1], initial=1)**0.5)
                     for s in layer.shapes])

  def net(params, example):
    x, owners = example['x'], iter(params)
    before = []
    for layer in program.layers:
      if layer.name == 'again':
        layer, own = before[layer.options[0]]
      elif layer.name == 'back':
        layer, own = Layer('dense'), [before[layer.options[0]][1][0].T]
      else:
        own = next(owners)
      before.append((layer, own))
      x = apply(layer, own, x, example)
    return x

  t, _ = program.shape
  n = program.examples
  batch = {
    'x': draw(n, *program.shape), 'label': rng.integers(0, 2, n, np.int32),
    'tokens': rng.integers(0, VOCABULARY, (n, 2 * t), np.int32)}
  one = jax.tree.map(lambda x: x[0], batch)
  batch['y'] = draw(n, *jax.eval_shape(net, params, one).shape)
  return lambda p, e: square(net(p, e) - e['y']), params, batch
