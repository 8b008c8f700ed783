"""What can be asked for when a program is run: values, and values inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Value:
  """A value of a program, compared by identity.

  Attributes:
    aval: The type: shape, dtype and, under `shard_map`, the varying axes.
    constant: The array or number, if the value is a constant.
  """

  __slots__ = ('aval', 'constant')

  def __init__(self, aval: Any, constant: Any = None):
    self.aval = aval
    self.constant = constant

  @property
  def number(self) -> float | None:
    """The value as a Python number, if it is one that is already known."""
    if self.constant is None or isinstance(self.constant, jax.core.Tracer) or (
        self.aval.shape or not jnp.issubdtype(self.aval.dtype, jnp.number)):
      return None
    return np.asarray(self.constant).item()


class Inner(NamedTuple):
  """A value inside an equation, seen from outside.

  A value of a scan's body is stacked over the steps. A value of a branch of a
  cond is zero where another branch is taken.

  Attributes:
    equation: Index of the equation in its program.
    branch: Index of the branch; None for a scan.
    atom: The value in the body or branch, possibly `Inner` itself.
  """

  equation: int
  branch: int | None
  atom: Any


class Computed(NamedTuple):
  """A function of some values, evaluated where these values exist.

  Wrapped in an `Inner`, it runs within each step of a loop, so that its
  arguments are never stacked over the steps.

  Attributes:
    fn: Function of the values; returns a tree of arrays.
    atoms: The arguments.
  """

  fn: Callable
  atoms: tuple['Atom', ...]


Atom = Value | Inner | Computed


def arguments(atoms: list[Atom]) -> list[Atom]:
  """Replace each `Computed` by the values that it is computed from."""
  return [x for atom in atoms for x in (
    atom.atoms if isinstance(atom, Computed) else (atom,))]
