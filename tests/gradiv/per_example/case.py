"""How a loss is entered into the table of losses that the tests run on."""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Examples per batch. Most sizes inside a case differ from it, so that mixing up
# two axes fails; a few are equal, so that it does not.
N = 5
# Each product in bfloat16 rounds by up to half an eps. Two programs that sum in
# different orders may round to different neighbors, a handful of times.
BF16_TOLERANCE = 4 * float(jnp.finfo(jnp.bfloat16).eps)


class Case(NamedTuple):
  """A loss of one example, with parameters and a batch.

  Attributes:
    name: Name of the test.
    make: () -> ``loss_fn(params, example)``, params, batch.
    falls_back: Reasons why parameters fall back, if nothing is small enough to
      be written out: the primitives, without a rule, that their gradients come
      from.
    has_aux: Whether the loss returns a pair.
    tolerance: Largest error, as a fraction of the natural scale.
  """

  name: str
  make: Callable
  falls_back: tuple[str, ...] = ()
  has_aux: bool = False
  tolerance: float = 1e-5


class Table(list):
  """Cases, each a function of a `Draw` decorated with ``@table.case``."""

  def case(self, make=None, /, **marks):
    if make is None:
      return functools.partial(self.case, **marks)
    name = make.__name__
    self.append(Case(name, lambda: make(Draw(name)), **marks))
    return make


class Draw:
  """Random NumPy arrays that depend only on the name of the case."""

  def __init__(self, name):
    self.rng = np.random.default_rng(zlib.crc32(name.encode()))

  def __call__(self, *shape, scale=0.5, dtype=jnp.float32):
    """Draw a parameter."""
    return np.asarray(scale * self.rng.normal(size=shape), dtype)

  def batch(self, *shape, dtype=jnp.float32):
    """Draw one array per example."""
    return self(N, *shape, scale=1., dtype=dtype)

  def integers(self, high, *shape, low=0):
    """Draw integers below `high` for each example."""
    return self.rng.integers(low, high, (N, *shape), np.int32)

  def regression(self, net, params, *shape, dtype=jnp.float32):
    """Fit ``net(params, x)`` to random targets; `shape` is that of one x."""
    x = self.batch(*shape, dtype=dtype)
    out = jax.eval_shape(net, params, x[0])

    def loss_fn(params, example):
      return square(net(params, example['x']) - example['y'])

    return loss_fn, params, {'x': x, 'y': self.batch(*out.shape)}


def square(error):
  """Return half the sum of squares, also of complex numbers."""
  return 0.5 * jnp.sum(jnp.real(error * jnp.conj(error)))


def cross_entropy(logits, labels):
  """Return the cross entropy of one example, summed over positions."""
  log_p = jax.nn.log_softmax(logits)
  picked = jnp.take_along_axis(log_p, labels[..., None], -1)
  return -jnp.sum(picked)


def normed(x, axis=-1):
  """Normalize without parameters.

  The constant added to the variance is large: with only two features that
  differ a lot the gradient nearly cancels, and rounding would decide.
  """
  x = x - x.mean(axis, keepdims=True)
  return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)
