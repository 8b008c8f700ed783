"""The tree of parameters as a list of real arrays, and back.

A complex parameter x + iy is two real ones, x and y: its gradient is that of
`jax.grad`, ∂F/∂x − i ∂F/∂y, and inner products of such gradients are real,
Re⟨g, h⟩ = ⟨∂F/∂x, ∂H/∂x⟩ + ⟨∂F/∂y, ∂H/∂y⟩.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Parameters:
  """Takes trees of parameters apart, and puts them together.

  Attributes:
    paths: The path of each part that has a gradient.
  """

  def __init__(self, params: Any):
    flat, self._treedef = jax.tree_util.tree_flatten_with_path(params)
    dtypes = [jnp.result_type(x) for _, x in flat]
    self._shapes = [np.shape(x) for _, x in flat]
    self._complex = [jnp.issubdtype(x, jnp.complexfloating) for x in dtypes]
    self._moves = [jnp.issubdtype(x, jnp.inexact) for x in dtypes]
    self.paths = [
      path for (path, _), is_complex, moves in zip(
        flat, self._complex, self._moves)
      for _ in range(is_complex + moves)]

  def parts(self, params: Any) -> list[Any]:
    """List the arrays of a tree; a complex one as its two parts.

    NumPy's float64 becomes float32, as in any jax function. Shapes, which
    `explain` accepts, stay shapes.
    """
    parts = []
    for x, is_complex in zip(jax.tree.leaves(params), self._complex):
      if not isinstance(x, jax.ShapeDtypeStruct):
        x = jnp.asarray(x)
        parts += [lax.real(x), lax.imag(x)] if is_complex else [x]
      elif is_complex:
        dtype = jnp.finfo(x.dtype).dtype
        parts += [jax.ShapeDtypeStruct(x.shape, dtype)] * 2
      else:
        parts.append(x)
    return parts

  def tree(self, parts: Sequence[Any]) -> Any:
    """Make a tree of its parts."""
    left = iter(parts)
    return self._treedef.unflatten([
      lax.complex(next(left), next(left)) if is_complex else next(left)
      for is_complex in self._complex])

  def gradient(self, parts: Sequence[jax.Array]) -> Any:
    """Make a tree of gradients; integers get zeros of dtype float0."""
    left = iter(parts)

    def of_leaf(shape, is_complex, moves):
      if not moves:
        return np.zeros(shape, jax.dtypes.float0)
      return (lax.complex(next(left), -next(left)) if is_complex
              else next(left))

    return self._treedef.unflatten(
      map(of_leaf, self._shapes, self._complex, self._moves))
