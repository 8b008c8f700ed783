"""Builds a network by name, as a pair of pure functions.

A module of `experiments.models.networks` is driven functionally: `init` maps a
key to a nested dict of arrays, `apply` maps that dict and inputs to logits. The
module graph is traced once, in `build`; a transformation only ever sees plain
trees.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.models import networks, options as options_lib

Params = dict[str, Any]

# The standard deviation of a normal that is cut off at two of its own.
_CUT_STDDEV = 0.87962566103423978


class Model(NamedTuple):
  """A network as two pure functions.

  `init(key) -> params` and `apply(params, inputs) -> logits`. `apply` takes
  any leading dimensions, none included: inputs [..., *input_shape] give
  logits [..., num_classes], and tokens [..., t] give [..., t, num_classes].
  """
  init: Callable[[jax.Array], Params]
  apply: Callable[[Params, jax.Array], jax.Array]


# The modules by name; `options.DEFAULTS` has what they take.
_MODULES: dict[str, Any] = {
  'logistic': networks.Mlp,
  'mlp': networks.Mlp,
  'cnn': networks.cnn,
  'cuda_convnet': networks.cuda_convnet,
  'resnet18': networks.Resnet18,
  'lstm': networks.Lstm,
  'transformer': networks.Transformer,
}


def build(name: str, *, input_shape: tuple[int, ...], num_classes: int,
          **options: Any) -> Model:
  """Build a model by name, for inputs of one shape.

  >>> model = build('mlp', input_shape=(8, 8, 1), num_classes=10, hidden=(32,))
  >>> params = model.init(jax.random.key(0))
  >>> model.apply(params, jnp.zeros((5, 8, 8, 1))).shape
  (5, 10)

  Args:
    name: 'logistic', 'mlp' (hidden, activation, use_bias), 'cnn' (channels,
      hidden), 'cuda_convnet' (channels, hidden), 'resnet18' (width), 'lstm'
      (embed, hidden, layers) or 'transformer' (width, heads, layers).
    input_shape: of one example, without the batch; (t,) for a text. The LSTM
      takes texts of any other length as well.
    num_classes: for a text, the size of the alphabet.
    **options: what shall differ from the defaults.
  """
  options = options_lib.DEFAULTS.get(name, {}) | options_lib.check(
      name, options)
  input_shape = options_lib.check_shapes(name, input_shape, num_classes)
  graphdef, shapes = nnx.split(nnx.eval_shape(lambda: _MODULES[name](
      input_shape, num_classes, rngs=nnx.Rngs(0), **options)))
  shapes = nnx.to_pure_dict(shapes)
  rectified = (name not in options_lib.TOKEN_MODELS
               and options.get('activation', 'relu') == 'relu')

  def init(key: jax.Array) -> Params:
    return _initialize(key, shapes, rectified)

  def apply(params: Params, inputs: jax.Array) -> jax.Array:
    leading = inputs.shape[:inputs.ndim - len(input_shape)]
    example = inputs.shape[len(leading):]
    wanted = example[:1] if name == 'lstm' else input_shape
    if example != wanted or not example:
      raise ValueError(f'inputs have the shape {inputs.shape}; the last '
                       f'dimensions allowed: {input_shape}')
    logits = nnx.merge(graphdef, params)(inputs.reshape(-1, *example))
    return logits.reshape(*leading, *logits.shape[1:])

  return Model(init, apply)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Average -log softmax(logits [..., num_classes])[labels], in float32."""
  return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), labels).mean()


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Return the share of labels that the largest logit names, in float32."""
  return (logits.argmax(axis=-1) == labels).astype(jnp.float32).mean()


def _initialize(key: jax.Array, shapes: Params, rectified: bool) -> Params:
  """Draw kernels [..., fan_out] ~ N(0, gain / fan_in); zeros, ones elsewhere.

  The gain is 2 where a ReLU follows, which halves the second moment, else 1.
  """
  leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
  leaves = [([entry.key for entry in path], x) for path, x in leaves]
  drawn = [path[-1] in ('kernel', 'embedding') for path, _ in leaves]
  ends = np.cumsum([x.size * random for (_, x), random in zip(leaves, drawn)])
  # One draw for all kernels. A draw for each, as nnx would make it, takes XLA
  # half a second a layer to compile: 20 s for the residual network.
  noise = jax.random.truncated_normal(key, -2, 2, (ends[-1],)) / _CUT_STDDEV
  params = []
  for (path, x), random, end in zip(leaves, drawn, ends):
    value = jnp.full(x.shape, float(path[-1] == 'scale'), x.dtype)
    if random:
      embeds = path[-1] == 'embedding'
      fan_in = x.shape[-1] if embeds else math.prod(x.shape[:-1])
      gain = 2 if rectified and path[-2] != 'out' else 1
      value = noise[end - x.size:end].reshape(x.shape).astype(x.dtype)
      value *= math.sqrt(gain / fan_in)
    params.append(value)
  return jax.tree.unflatten(treedef, params)
