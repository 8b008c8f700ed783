"""Parameters whose sums are computed alike, traced once for all of them.

Of 48 equal layers, each has products of the same shapes that lie alike in a
weight of the same shape. How one of them is finished is traced once, as a
function of its operands, and called for the other 47.

What a product does is known by its functions: a function of a module is like
itself, and a `functools.partial` of one is like another with equal arguments.
A closure could hold anything, so that it is like itself alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax

from gradiv.per_example._engine import costs
from gradiv.per_example._engine.terms import Term


class NotAlike(Exception):
  """Raised where nothing else can be like a term."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
  """What to do with operands; equal to any other that does the same.

  Attributes:
    key: What makes two of them equal.
    like_terms: `LikeTerms` whose operands are the numbers 0, 1, ...
  """

  key: Hashable
  like_terms: Any

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Recipe) and self.key == other.key

  def __hash__(self) -> int:
    return hash(self.key)


def recipe(like_terms: Any) -> Recipe | None:
  """Return what some `LikeTerms` do with their operands.

  None if they hold values or functions of this program alone.
  """
  places = {x: i for i, x in enumerate(dict.fromkeys(like_terms.operands))}
  try:
    keys = tuple(_key_of_term(term, places) for term in like_terms.terms)
    key = type(like_terms), like_terms.num_examples, keys, costs.limits()
    hash(key)
  except (NotAlike, TypeError):  # TypeError: not hashable
    return None
  terms = [_detached(term, places) for term in like_terms.terms]
  return Recipe(key, type(like_terms)(terms, like_terms.num_examples))


def sums(
  recipe: Recipe, operands: Sequence[jax.Array], scale: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Compute `LikeTerms.sums` of operands, in the order of their numbers."""
  return _sums(recipe, tuple(operands), scale)


@functools.partial(jax.jit, static_argnums=0)
def _sums(recipe, operands, scale):
  return recipe.like_terms.sums(dict(enumerate(operands)), scale)


def _key_of_term(term, places):
  product = term.product
  return (
    tuple(places[x] for x in term.operands), len(product.operands),
    product.sizes, product.labels, product.scaled, product.num_extra,
    product.turned, product.is_sparse, str(product.precision),
    _key(product.make_factors),
    product.add_up and _key(product.add_up), term.stacks, term.labels,
    term.constant, term.shape, str(term.dtype),
    tuple((op.name, op.key, _key(op.fn), op.depth, op.box)
          for op in term.ops if _has_no_operands(op)))


def _has_no_operands(op):
  if op.common:
    raise NotAlike
  return True


def _key(fn: Callable) -> Hashable:
  if isinstance(fn, functools.partial):
    args = tuple(_key(x) if callable(x) else x for x in fn.args)
    return _key(fn.func), args, tuple(sorted(fn.keywords.items()))
  if getattr(fn, '__closure__', ()) is not None:
    raise NotAlike
  return fn


def _detached(term: Term, places: dict) -> Term:
  """Replace the operands of a term by their numbers."""
  operands: Any = tuple(places[x] for x in term.operands)
  product = term.product._replace(
    operands=operands[:len(term.product.operands)], scales=(), plain=None)
  ops = tuple(op._replace(relabel=_unused) for op in term.ops)
  return dataclasses.replace(
    term, operands=operands, product=product, ops=ops)


def _unused(labels):
  return labels
