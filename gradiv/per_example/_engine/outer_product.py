"""An equation seen as Σ_k u_k ⊗ v_k."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax

from gradiv.per_example._engine.values import Value


class OuterProduct(NamedTuple):
  """The result of an equation as blocks z of Σ_k u_k ⊗ v_k: [z, a, b].

  Attributes:
    operands: The values that the two factors are made of.
    make_factors: Operands of one example -> (u [z, k, a], v [z, k, b]), arrays
      or `factors.OneHot`.
    labels: Which factor each axis of the result comes from, in order:
      ('z' | 'a' | 'b', size). An axis may consist of several, slowest first.
    sizes: (z, k, a, b).
    scaled: Position of the operand to multiply in order to scale the product.
    num_extra: Number of elements that the factors hold beyond the operands, as
      the patches of a convolution do.
    turned: The factor, 'a' or 'b', that lies with its positions last in memory,
      or ''. It is [z, k, a] or [z, k, b] all the same.
    is_sparse: Whether the rows of a factor are `OneHot`.
    precision: Precision of the product that the user asked for.
    add_up: Operands of all examples -> the sum of their products, in the shape
      of the result, if there is a better way than by the factors.
    scales: The scales along a factor that are in it, see `scaled_factors`.
    plain: The product without them; None if there are none.
  """

  operands: tuple[Value, ...]
  make_factors: Callable[..., tuple[Any, Any]]
  labels: tuple[tuple[str, int], ...]
  sizes: tuple[int, int, int, int]
  scaled: int
  num_extra: int = 0
  turned: str = ''
  is_sparse: bool = False
  precision: Any = None
  add_up: Callable[..., Any] | None = None
  scales: tuple[Any, ...] = ()
  plain: Any = None


def part_of(
  product: OuterProduct, shape: tuple[int, ...], axis: int, low: int, high: int
) -> OuterProduct | None:
  """See a slice of a product as the product of a slice of one factor.

      rows low:high of Σ_k u_k ⊗ v_k  =  Σ_k u_k[low:high] ⊗ v_k

  Args:
    product: The product.
    shape: Shape of its result.
    axis: Axis of the result that is sliced.
    low: First index that is kept.
    high: Index after the last one that is kept.

  Returns:
    The product, or None where the axis is not exactly one of a dense factor.
  """
  roles = [role for role, _ in product.labels]
  if tuple(s for _, s in product.labels) != shape or roles[axis] == 'z' or (
      product.is_sparse):
    return None
  role = roles[axis]
  mine = [d for d in range(len(shape)) if roles[d] == role]
  sizes = [shape[d] for d in mine]
  place = mine.index(axis)
  z, k, a, b = product.sizes
  count = math.prod(sizes) // shape[axis] * (high - low)

  def make_factors(*operands):
    u, v = product.make_factors(*operands)
    whole = u if role == 'a' else v
    cut = lax.slice_in_dim(whole.reshape(z, k, *sizes), low, high, 1, place + 2)
    cut = cut.reshape(z, k, count)
    return (cut, v) if role == 'a' else (u, cut)

  labels = tuple((r, high - low if d == axis else s)
                 for d, (r, s) in enumerate(product.labels))
  sizes_now = (z, k, count, b) if role == 'a' else (z, k, a, count)
  return product._replace(make_factors=make_factors, labels=labels,
                          sizes=sizes_now, add_up=None)
