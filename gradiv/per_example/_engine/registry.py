"""What the engine knows of each primitive of jax, registered file by file.

Each file in `primitives/` defines the rules of one primitive, or of a family,
and calls `register`. Everything else asks `find`; nothing else in the engine
names a primitive, apart from the loops and branches that `control_flow` runs
in part.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Primitive:
  """The rules of one primitive. Each may be left out.

  Attributes:
    name: Name of the primitive, as a jaxpr shows it.
    product: (program, equation) -> `OuterProduct`, or None where it does not
      apply. Sees the result as Σ_k u_k ⊗ v_k: a gradient can be cut here.
    linear: (program, equation, place) -> how the result depends on the operand
      at `place`, if only that one differs between examples: a `LinearOp`; a
      number or a scalar value that it is multiplied by; `scaled_factors.Along`
      for an array that multiplies it; or None if it is not linear in that
      operand. The walk back goes on through it.
    terms: (cutter, equation, out) -> the terms of the result number `out`, or
      [] if none are found. Takes the place of `Cutter.product_or_linear`, for
      primitives with several results, sums, loops and the like.
    keeps_zero: Whether the result is zero if any operand is zero everywhere.
    flops: (program, index) -> the floating-point operations of that equation;
      by default one for each element of its results.
  """

  name: str
  product: Callable[..., Any] | None = None
  linear: Callable[..., Any] | None = None
  terms: Callable[..., list] | None = None
  keeps_zero: bool = False
  flops: Callable[..., int] | None = None


_REGISTERED: dict[str, Primitive] = {}


def register(*names: str, **rules: Any) -> None:
  """Register the rules of a primitive, under each of its names.

  Args:
    *names: Names in a jaxpr; several for a family of primitives, or where
      versions of jax differ.
    **rules: Fields of `Primitive`.
  """
  for name in names:
    if name in _REGISTERED:
      raise ValueError(f'primitive {name}: is registered already')
    _REGISTERED[name] = Primitive(name, **rules)


def find(name: str) -> Primitive:
  """Return the rules of a primitive; none if it is not registered."""
  return _REGISTERED.get(name, Primitive(name))


def registered() -> tuple[str, ...]:
  """Return the names of all registered primitives."""
  return tuple(_REGISTERED)


def flops(program: Any, index: int) -> int:
  """Estimate the floating-point operations of one equation of a program."""
  equation = program.equations[index]
  count = find(equation.name).flops
  if count is not None:
    return count(program, index)
  return sum(math.prod(out.aval.shape) for out in equation.outs)
