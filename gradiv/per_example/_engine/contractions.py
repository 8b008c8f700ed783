"""A term that is a product summed along one factor, or both: a contraction.

  d_b = Σ_a M_ab P_ab = Σ_k (u_k M)_b v_kb,     then spread again: E_ab d_b

M and E are common to the examples. The number d_b, of each column b, comes from
the factors u and v, without P or its gradient being written out.
"""

import dataclasses
import functools
from typing import Any

import jax

from gradiv._common import compat, trees
from gradiv.per_example._engine import factors, scaled_factors
from gradiv.per_example._engine.labels import NO_FACTOR, Labels, numbered
from gradiv.per_example._engine.terms import Data, Term

_ELEMENTWISE = ('mul', 'div')


@dataclasses.dataclass(frozen=True)
class Contraction:
  """A term that is summed along one factor, or both, and maybe spread again.

  Attributes:
    term: The term.
    num_ops: The number of its equations up to the last sum.
    labels: Where its elements come from, there.
    kept: The roles that are left: 'za', 'zb' or 'z'.
    mirrors: Whether it is spread with the array that it is contracted with,
      but for a scale along what is kept.
  """

  term: Term
  num_ops: int
  labels: Labels
  kept: str
  mirrors: bool

  def d(self, data: Data, common: Data) -> jax.Array:
    """Contract the products of all examples: [n, z, a], [n, z, b] or [n, z]."""
    u, v = self._plain.factors([data[x] for x in self._plain.operands])
    d = factors.contracted(u, v, self.m(common), self.kept)
    if self._plain.product is not self.term.product:
      d *= scaled_factors.along(self.term.product, self.kept, common)[None]
    return d if self.term.constant == 1 else d * self.term.constant

  @property
  def common(self) -> list[Any]:
    """The values that scale d once it is summed."""
    plain = self._plain.product is not self.term.product
    return [x for _, x in self.term.product.scales] if plain else []

  @functools.cached_property
  def _plain(self):
    """The term without what may as well scale d, as alike as others' can be.

    A weight and the gain that it is normalized to are contracted with one M.
    """
    term = dataclasses.replace(self.term, constant=1.)
    product = term.product.plain
    if product is None or not scaled_factors.is_along(term.product, self.kept):
      return term
    return dataclasses.replace(term, product=product, operands=(
      *term.operands[:len(product.operands)], *term.scalars))

  def m(self, common: Data) -> jax.Array:
    """Return M, which the product is contracted with: [z, a, b]."""
    return as_block(self._before(self.term.ops[:self.num_ops]), common)

  def put(self, d: jax.Array, common: Data) -> jax.Array:
    """Bring d of one example, or a sum of such, into the gradient."""
    mine = sorted(self.labels, key=lambda x: ('zab'.index(x[0]), x[1]))
    x = d.reshape([size for *_, size in mine]).transpose(
      [mine.index(part) for part in self.labels])
    x = x.reshape(self._shape(common)).astype(self.term.dtype)
    for op in self.term.ops[self.num_ops:]:
      x = op.fn(x, *(common[e] for e in op.common))
    return x

  def _shape(self, common):
    """Return the shape after the last sum."""
    first = self._before(self.term.ops[:self.num_ops])
    return jax.eval_shape(
      lambda: first.put(_zeros(first), common)).shape

  def _before(self, ops):
    return dataclasses.replace(self.term, ops=tuple(ops))


def as_block(
  term: Term, common: Data, array: jax.Array | None = None
) -> jax.Array:
  """Bring an array like the result of `term`, or ones, into [z, a, b]."""
  zeros = _zeros(term)
  put = lambda block: term.put(block, common)
  if array is None:
    array = compat.zeros_like(jax.eval_shape(put, zeros)) + 1
  (block,) = jax.linear_transpose(put, zeros)(array)
  return trees.widen(block)


def _zeros(term):
  """Make zeros [z, a, b] whose type is that of the product."""
  z, _, a, b = term.product.sizes
  return compat.zeros_of(
    (z, a, b), term.dtype, compat.varying_axes(term.source.aval))


def see(term: Term, whole: Term | None) -> Contraction | None:
  """See a term as a contraction; None if it is none.

  Args:
    term: The term.
    whole: The product that it is added to, if any.
  """
  if term.source is None:
    return None
  labels: list[Any] = [numbered(term.product.labels)]
  for op in term.ops:
    labels.append(None if labels[-1] is None else op.relabel(labels[-1]))
  sums = [i + 1 for i, op in enumerate(term.ops) if op.name == 'reduce_sum']
  # What follows one number may be any linear map.
  one = next((i for i in sums if labels[i] is not None and all(
    size == 1 for *_, size in labels[i])), None)
  last = one or max(sums, default=0)
  if not last or not _is_diagonal(term.ops[:last] if one else term.ops):
    return None
  kept = labels[last] is not None and _kept(labels[0], labels[last])
  if not kept:
    return None
  if whole and (whole.source is not term.source
                or not one and not _at(labels[-1], whole.labels)):
    return None
  return Contraction(
    term, last, labels[last], kept,
    whole is not None and _mirrors(term, last, labels, kept, whole))


def _is_diagonal(ops):
  """Return whether equations keep apart what they don't add up."""
  return not any(
    op.box or op.depth or not op.is_isometric
    and op.name not in ('reduce_sum', 'broadcast_in_dim', *_ELEMENTWISE)
    for op in ops)


def _kept(before, after):
  """Say which roles are left, each as a whole; None if one is in part."""
  count = lambda labels, role: sorted(
    x for x in labels if x[0] == role and x[2] > 1)
  kept = ''
  for role in 'zab':
    if left := count(after, role):
      if left != count(before, role):
        return None
      kept += role
    elif role == 'z':
      if count(before, role):
        return None
      kept += role
  return kept if kept in ('z', 'za', 'zb') and all(
    role in 'zab' for role, *_ in after) else None


def _at(labels: Labels | None, whole: Labels | None) -> bool:
  """Return whether each part lies where it lies in the product itself."""
  if labels is None:
    return False
  rest = [x for x in whole or () if x[2] > 1]
  for role, part, size in labels:
    if size == 1:
      continue
    if role != NO_FACTOR:
      if not rest or rest.pop(0) != (role, part, size):
        return False
      continue
    taken = 1
    while taken < size and rest:
      taken *= rest.pop(0)[2]
    if taken != size:
      return False
  return not rest


def _mirrors(term, last, labels, kept, whole):
  """Return whether M and E are one array, but for a scale of what is kept."""
  if term.scalars or whole.scalars or not all(
      scaled_factors.is_along(x.product, kept) for x in (term, whole)):
    return False
  first = [i for i, op in enumerate(term.ops[:last])
           if op.name in _ELEMENTWISE]
  spread = [i for i, op in enumerate(term.ops)
            if op.name == 'broadcast_in_dim' and not op.is_isometric]
  if len(first) != 1 or len(spread) != 1:
    return False
  then = [i for i, op in enumerate(term.ops)
          if i > spread[0] and op.name in _ELEMENTWISE]
  if len(then) != 1:
    return False
  one, other = term.ops[first[0]], term.ops[then[0]]
  return (one.name == other.name == 'mul' and one.key == other.key
          and _at(labels[then[0]], labels[first[0]]))
