"""A product behind a matrix is a product of other factors.

A weight may be a product itself, as the update A B of a weight W + A B is. The
gradient P = Σ_k u_k ⊗ v_k of W + A B then goes through the other matrix, and so
may one factor instead:

  dA = P Bᵀ = Σ_k u_k ⊗ (B v_k),     dB = Aᵀ P = Σ_k (Aᵀ u_k) ⊗ v_k

With few columns in A, these are much smaller than P, which isn't written out.
Matrices of several blocks, kernels of convolutions and products in the body of
a scan are left as they are.
"""

import functools
import math
from typing import Any

from jax import lax

from gradiv.per_example._engine import labels as labels_of
from gradiv.per_example._engine.linear import Matrix
from gradiv.per_example._engine.outer_product import OuterProduct
from gradiv.per_example._engine.program import Program
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Value

# A sum of more is better off as one linear map, see `paths`.
MOST_TERMS = 2


def through_matrices(program: Program, terms: list[Term]) -> list[Term]:
  """Take the matrices behind products into factors, where that is possible.

  Args:
    program: The program. It is extended by the factors.
    terms: What a gradient is the sum of.
  """
  if len(terms) > MOST_TERMS:
    return terms
  return [_through_all(program, term) for term in terms]


def _through_all(program, term):
  now: Term | None = term
  while now and any(op.name == 'dot_general' for op in now.ops):
    now = _through_first(program, now)
  return now or term


def _through_first(program, term):
  """Take the first matrix behind a product into a factor; None if it can't."""
  product = term.product
  if product is None or product.is_sparse or product.num_extra or (
      term.stacks or not all(isinstance(x, Value) for x in term.operands)):
    return None
  place = next(i for i, op in enumerate(term.ops) if op.name == 'dot_general')
  op, by_axis = term.ops[place], _axes(term, place)
  if by_axis is None or op.matrix is None:
    return None
  summed = [part for d in op.matrix.summed for part in by_axis[d]]
  kept = [part for d, parts in enumerate(by_axis)
          if d not in op.matrix.summed for part in parts]
  role = _role(summed, kept)
  if role is None:
    return None
  (matrix,) = op.common
  fresh = [(role, size) for d, size in enumerate(matrix.aval.shape)
           if d not in op.matrix.summed_of_matrix]
  old = [(of, size) for of, _, size in kept]
  labels = (*fresh, *old) if op.matrix.is_first else (*old, *fresh)
  factors = program.extend(
    functools.partial(_factors, product, role, tuple(summed), op.matrix),
    [*product.operands, matrix])
  z, k, a, b = product.sizes
  width = math.prod(size for _, size in fresh)
  mapped = Term(
    (*factors, *term.scalars), OuterProduct(
      tuple(factors), _unchanged, labels, (z, k, width, b) if role == 'a'
      else (z, k, a, width), scaled=1, precision=product.precision),
    labels=labels_of.numbered(labels), constant=term.constant, name=term.name,
    shape=op.matrix.shape, dtype=op.matrix.dtype)
  return functools.reduce(Term.then, term.ops[place + 1:], mapped)


def _axes(term, count):
  """Return of which parts of the factors each axis consists, behind `count`."""
  labels: Any = [(role, (part,), size) for role, part, size
                 in labels_of.numbered(term.product.labels)]
  shape = term.shape
  for op in term.ops[:count]:
    if op.name == 'reshape':
      labels, shape = _split(labels, op.key), op.key
    elif op.name == 'transpose':
      labels = labels_of.transposed(tuple(labels), shape, op.key)
      shape = tuple(shape[d] for d in op.key)
    else:
      return None
    if labels is None:
      return None
  return labels_of.of_axes(tuple(labels), shape)


def _split(labels, shape):
  """Split the parts that a reshape spreads over several axes.

  >>> _split([('a', (0,), 8), ('b', (0,), 6)], (8, 2, 3))
  [('a', (0,), 8), ('b', (0, 0), 2), ('b', (0, 1), 3)]
  """
  found, rest = [], [*labels]
  for left in shape:
    while left > 1:
      role, part, size = rest.pop(0)
      if max(size, left) % min(size, left):
        return None
      if size > left:
        rest.insert(0, (role, (*part, 1), size // left))
        part, size = (*part, 0), left
      found.append((role, part, size))
      left //= size
  return [*found, *rest]


def _role(summed, kept):
  """Return which factor is summed over as a whole; None if none is."""
  roles = {role for role, *_ in summed}
  # The other factor's parts must lie as they do in it.
  in_order = all(
    mine == sorted(mine) for of in 'zab'
    for mine in [[part for role, part, _ in kept if role == of]])
  if len(roles) != 1 or roles & {'z', *(role for role, *_ in kept)} or (
      not in_order):
    return None
  return roles.pop()


def _factors(product, role, summed, matrix: Matrix, *arrays):
  """Multiply one factor by the matrix, the last of the arrays."""
  *operands, c = arrays
  both: list[Any] = [*product.make_factors(*operands)]
  x = both['ab'.index(role)]
  parts = sorted(summed)
  x = x.reshape(*x.shape[:2], *(size for *_, size in parts)).transpose(
    0, 1, *(2 + parts.index(part) for part in summed)).reshape(x.shape)
  rows = math.prod(c.shape[d] for d in matrix.summed_of_matrix)
  c = c.transpose(*matrix.summed_of_matrix, *(
    d for d in range(c.ndim) if d not in matrix.summed_of_matrix)).reshape(
      rows, -1)
  both['ab'.index(role)] = lax.dot_general(
    x, c, (((2,), (0,)), ((), ())), precision=matrix.precision,
    preferred_element_type=matrix.dtype)
  return both


def _unchanged(u, v):
  return u, v
