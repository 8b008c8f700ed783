"""What an entry of the table of architectures is, and how one is written."""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Of a batch. Most sizes inside a case differ from it, so that axes which are
# mixed up do not fit; some are equal, so that they do.
N = 5
# Each product of bfloat16 rounds by up to half an eps, and where two programs
# sum in different orders what follows may round to the other neighbour: a
# handful of roundings between the two.
BF16_TOLERANCE = 4 * float(jnp.finfo(jnp.bfloat16).eps)


class Case(NamedTuple):
  """A loss of one example, and where to take it.

  Attributes:
    name: Of the test.
    make: Without arguments: ``loss_fn(params, example)``, params, batch.
    falls_back: Why leaves are computed anew for each example unless they are
      small: the primitives that make them, for which there is no rule.
    has_aux: The loss returns a pair.
    tolerance: What is an equal, as a share of the natural scale.
  """

  name: str
  make: Callable
  falls_back: tuple[str, ...] = ()
  has_aux: bool = False
  tolerance: float = 1e-5


class Table(list):
  """Cases, each a function of a `Draw` below ``@table.case``."""

  def case(self, make=None, /, **marks):
    if make is None:
      return functools.partial(self.case, **marks)
    name = make.__name__
    self.append(Case(name, lambda: make(Draw(name)), **marks))
    return make


class Draw:
  """Random NumPy arrays that depend on the name of the case alone."""

  def __init__(self, name):
    self.rng = np.random.default_rng(zlib.crc32(name.encode()))

  def __call__(self, *shape, scale=0.5, dtype=jnp.float32):
    """Draw a parameter."""
    return np.asarray(scale * self.rng.normal(size=shape), dtype)

  def batch(self, *shape, dtype=jnp.float32):
    """Draw one array for each example."""
    return self(N, *shape, scale=1., dtype=dtype)

  def integers(self, high, *shape, low=0):
    """Draw whole numbers below `high` for each example."""
    return self.rng.integers(low, high, (N, *shape), np.int32)

  def regression(self, net, params, *shape, dtype=jnp.float32):
    """Fit ``net(params, x)`` to targets; `shape` is that of an x."""
    x = self.batch(*shape, dtype=dtype)
    out = jax.eval_shape(net, params, x[0])

    def loss_fn(params, example):
      return square(net(params, example['x']) - example['y'])

    return loss_fn, params, {'x': x, 'y': self.batch(*out.shape)}


def square(error):
  """Half the sum of squares, of complex numbers too."""
  return 0.5 * jnp.sum(jnp.real(error * jnp.conj(error)))


def cross_entropy(logits, labels):
  """Of one example; summed over positions where there are some."""
  log_p = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_p, labels[..., None], -1)
  return -jnp.sum(picked)


def normed(x, axis=-1):
  """Normalise without parameters.

  What is added is large: where two features alone are left of a large
  difference their gradient nearly cancels, and rounding would decide.
  """
  x = x - x.mean(axis, keepdims=True)
  return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)
