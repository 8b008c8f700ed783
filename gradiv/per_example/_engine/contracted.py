"""A gradient of products that are added up as they are, and contracted.

A weight V that is normalized column by column before its use, as W = V · s with
s = γ / ‖V_b‖, has the gradient

  dV = s · P + E · d,     d_b = Σ_a M_ab P_ab

with the product P that made the gradient of W. So it is, too, if a mean is
removed (standardized weights), and with one number d for the whole weight
(spectral normalization). With q like d, but of s · P and E, norms are

  ‖s · P + E · d‖² = ‖s · P‖² + 2 ⟨d, q⟩ + Σ_ab (E_ab d_b)²
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import (
  contractions,
  costs,
  factors,
  scaled_factors,
)
from gradiv.per_example._engine.contractions import Contraction
from gradiv.per_example._engine.terms import Data, Term


@dataclasses.dataclass(frozen=True)
class Contracted:
  """A gradient made of contractions, and at most one product beside them.

  Attributes:
    whole: The product, or None.
    parts: The contractions.
  """

  whole: Any
  parts: tuple[Contraction, ...]

  @property
  def common(self) -> list[Any]:
    """The values, besides those of the terms' equations, that are needed."""
    mirrored = [term for part in self.parts if part.mirrors
                for term in (part.term, self.whole)]
    return [x for term in mirrored for _, x in term.product.scales] + [
      x for part in self.parts for x in part.common]

  def cost(self, num_examples: int) -> tuple[int, int]:
    """Count operations, and numbers read and written, for the contractions."""
    z, k, a, b = self.parts[0].term.sizes
    times = sum(1 if part.mirrors or not self.whole else 2
                for part in self.parts)
    return (2 * num_examples * z * k * a * b * times,
            num_examples * z * k * (a + b) * times)

  def rows(self, data: Data, common: Data) -> jax.Array:
    """Write the contractions out: [n, *shape]."""
    total: Any = sum(jax.vmap(lambda d, part=part: part.put(d, common))(
      part.d(data, common)) for part in self.parts)
    return total

  def more(self, data: Data, common: Data) -> tuple[jax.Array, jax.Array]:
    """Compute what contractions add to Σ_i P_i, and to ‖P_i‖²: [n]."""
    found = [part.d(data, common) for part in self.parts]
    total: Any = sum(part.put(jnp.sum(d, 0), common)
                     for part, d in zip(self.parts, found))
    arrays = [contractions.as_block(
      self.whole, common, part.put(jnp.ones_like(d[0]), common))
              for part, d in zip(self.parts, found)]
    squares: Any = 0
    for part, d, e in zip(self.parts, found, arrays):
      q = self._q(part, d, e, data, common)
      squares += 2 * jnp.sum((d * q).reshape(len(d), -1), 1)
    for (p, d, e), (r, f, g) in itertools.product(
        zip(self.parts, found, arrays), repeat=2):
      squares += jnp.einsum(
        f'n{p.kept},n{r.kept},zab->n', d, f, e * g, precision='highest')
    return total, squares

  def _q(self, part, d, e, data, common):
    """Compute Σ E ⊙ P over what is not kept, like d."""
    if part.mirrors:
      # With D for what d is before the scales: d = t · D, E = c · M, and
      # q = s · c · D. Where t is zero, d is, too, and q is not needed.
      m, over = part.m(common), [
        i for i, role in enumerate('zab') if role not in part.kept]
      square = jnp.sum(jnp.square(m), over)
      c = jnp.sum(e * m, over) / _not_zero(square)
      s, t = (term.constant * scaled_factors.along(
        term.product, part.kept, common) for term in (self.whole, part.term))
      return (s * c / _not_zero(t))[None] * d
    u, v = self.whole.factors([data[x] for x in self.whole.operands])
    return factors.contracted(u, v, e, part.kept)


def _not_zero(x):
  return jnp.where(x == 0, 1, x)


def find(terms: Sequence[Term]) -> Contracted | None:
  """See a gradient as contractions; None if it isn't, or costs more that way.

  Args:
    terms: What the gradient is the sum of.
  """
  if not all(term.product and not term.stacks and not term.product.is_sparse
             and not term.product.num_extra for term in terms):
    return None
  by_kind: dict[bool, list[Term]] = {True: [], False: []}
  for term in terms:
    by_kind[all(op.is_isometric for op in term.ops)].append(term)
  if not by_kind[False] or len(by_kind[True]) > 1:
    return None
  whole = by_kind[True][0] if by_kind[True] else None
  parts = [part for term in by_kind[False]
           if (part := contractions.see(term, whole)) is not None]
  found = Contracted(whole, tuple(parts))
  return found if len(parts) == len(by_kind[False]) and _is_cheaper(
    found) else None


def _is_cheaper(found):
  """Compare with products that are written out, and go through each map."""
  z, _, a, b = found.parts[0].term.sizes
  passes = 4 * (len(found.parts) + 1)
  flops, _ = found.cost(1)
  return flops <= costs.FLOPS_PER_NUMBER * passes * z * a * b
