"""Linear equations between a product and the gradient that it is part of.

Behind the product that makes a gradient there are often reshapes, transposes,
casts or zeros put around it. They keep inner products, ⟨L P, L Q⟩ = ⟨P, Q⟩, so
norms can still be read off the factors. Any other linear equation needs the
product written out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradiv.per_example._engine import labels as labels_of
from gradiv.per_example._engine.labels import Labels
from gradiv.per_example._engine.values import Atom

Box = tuple[tuple[int, int], ...]


class Matrix(NamedTuple):
  """How an array is multiplied by a matrix common to the examples.

  Attributes:
    summed: The axes of the array that are summed over.
    summed_of_matrix: Those of the matrix, in the same order.
    is_first: Whether the matrix is the first operand.
    precision: Precision of the product.
    shape: Shape of the result.
    dtype: Dtype of the result.
  """

  summed: tuple[int, ...]
  summed_of_matrix: tuple[int, ...]
  is_first: bool
  precision: Any
  shape: tuple[int, ...]
  dtype: Any


# Equations that leave each element at its place.
_ELEMENTWISE = ('mul', 'div')


class LinearOp(NamedTuple):
  """A linear equation behind a product.

  Attributes:
    name: Name of its primitive.
    key: Distinguishes it from others of that name: terms with equal names and
      keys go through the same map.
    fn: (value, *common) -> the result.
    common: Further operands, which do not depend on the example.
    is_isometric: Whether it keeps inner products.
    box: If it puts zeros around the value, where the value lies afterwards:
      (low, high) for each axis.
    relabel: What it does to the labels of the value; returns None where they
      are no longer known.
    depth: Number of axes, stacked by loops, in front of those it works on.
    constant: A number that multiplies the result, for the term to take over.
    matrix: How it multiplies by a matrix, if it is a product with one.
  """

  name: str
  key: Any
  fn: Callable[..., jax.Array]
  common: tuple[Atom, ...] = ()
  is_isometric: bool = True
  box: Box | None = None
  relabel: Callable[[Labels], Labels | None] = lambda labels: labels
  depth: int = 0
  constant: float = 1.
  matrix: Matrix | None = None


def reshaped(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe an equation that only changes the shape of its operand."""
  del program, place
  shape = equation.outs[0].aval.shape
  return LinearOp('reshape', shape, functools.partial(_reshaped, shape))


def _reshaped(shape, x):
  return x.reshape(shape)


def unchanged(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe an equation that leaves the elements and their order alone."""
  del program, place
  return LinearOp(equation.name, None, lambda x: equation.bind(x)[0])


def applied(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe a linear equation that needs its operand written out."""
  del program
  others = [x for i, x in enumerate(equation.ins) if i != place]

  def apply(x, *common):
    args = list(common)
    args.insert(place, x)
    return equation.bind(*args)[0]

  if equation.name in _ELEMENTWISE:
    return LinearOp(equation.name, tuple(others), apply, tuple(others), False)
  # An equation is like itself alone; its operands could differ from another's.
  return LinearOp(equation.name, id(equation), apply, tuple(others), False,
                  relabel=lambda found: None)


def times_matrix(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe a product with a matrix that is common to the examples."""
  op, params = applied(program, equation, place), equation.params
  sums, batches = params['dimension_numbers']
  if batches[0]:
    return op
  (out,) = equation.outs
  return op._replace(matrix=Matrix(
    tuple(sums[place]), tuple(sums[1 - place]), place == 1,
    params['precision'], out.aval.shape, out.aval.dtype))


def summed(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe a sum over axes; over axes of one, it is only a reshape."""
  before, axes = equation.ins[place].aval.shape, equation.params['axes']
  return _reshaped_or_applied(
    program, equation, place,
    lambda found: labels_of.summed(found, before, axes))


def spread(program: Any, equation: Any, place: int = 0) -> LinearOp:
  """Describe a broadcast; to axes of one, it is only a reshape."""
  before, after = equation.ins[place].aval.shape, equation.outs[0].aval.shape
  kept = equation.params['broadcast_dimensions']
  return _reshaped_or_applied(
    program, equation, place,
    lambda found: labels_of.spread(found, before, after, kept))


def _reshaped_or_applied(program, equation, place, relabel):
  if equation.ins[place].aval.size == equation.outs[0].aval.size:
    return reshaped(program, equation, place)
  return applied(program, equation, place)._replace(relabel=relabel)


def applied_at(wanted: int) -> Callable[..., LinearOp | None]:
  """Make a rule for an equation that is linear in one of its operands."""
  def linear(program, equation, place):
    return applied(program, equation, place) if place == wanted else None

  return linear


def boxed(shape: tuple[int, ...], box: Box) -> LinearOp:
  """Describe zeros put around a value, which then lies in a box.

  Two values in boxes that do not overlap are orthogonal, and values in the
  same box can be joined, without any zeros being written:

      concatenate([dW1, dW2], 1)  =   dW1 │ 0    +    0 │ dW2
  """
  pads = [(low, size - high, 0) for (low, high), size in zip(box, shape)]
  return LinearOp('box', (shape, box),
                  functools.partial(_padded, tuple(pads)), box=box)


def _padded(pads, x):
  return lax.pad(x, jnp.zeros((), x.dtype), pads)
