"""How to compute the statistics of one parameter: the choice.

  common    The gradient is the same for all examples: a penalty on the
            parameters, or zero.
  example   The gradient of each example is written out: it is no product, or
            no larger than the values that it is made of, and fits.
  products  Norms and sums are read off the factors of products, which are
            never written out.
  contracted  Products summed along a factor, after a normalization of the
            weight: read off the factors, see `contractions`.
  mixture   Products behind linear equations that change inner products, or
            products beside other terms: written out in chunks of examples.
  fallback  What the other ways hold of all examples would not fit: the
            gradient is computed again, in chunks of examples.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gradiv.per_example._engine import contracted as contracted_of, costs
from gradiv.per_example._engine.like_terms import LikeTerms
from gradiv.per_example._engine.program import Program
from gradiv.per_example._engine.terms import Term, disjoint


class Strategy(NamedTuple):
  """A way to compute the statistics of one parameter.

  Attributes:
    kind: See above.
    reason: Why it is not 'products'; '' if it is, or for 'common'.
    like_terms: The products, like ones together; [] if not looked at.
    contracted: The gradient as contractions, if the kind is 'contracted'.
  """

  kind: str
  reason: str = ''
  like_terms: Sequence[LikeTerms] = ()
  contracted: contracted_of.Contracted | None = None


def choose(
  program: Program, value: Any, terms: list[Term], num_examples: int,
  width: int, room: int,
) -> Strategy:
  """Choose the way for one parameter, from shapes alone.

  Args:
    program: The program that computes the gradient.
    value: The gradient of the parameter in it.
    terms: The terms of the gradient.
    num_examples: n.
    width: Numbers to write out per example, where it is not 'products'.
    room: Numbers that may be held for all examples.
  """
  size, n = math.prod(value.aval.shape), num_examples
  products = [term for term in terms if term.product]
  if all(term.is_common for term in terms):
    return Strategy('common')
  if not products:
    if n * size <= room:
      return Strategy(
        'example', 'not a product; small enough to be written out')
    made = program.made_by(value)
    return Strategy(
      'fallback', f'no product behind {made.name if made else "an argument"}')
  like_terms = _joined(products, n)
  whole = [term for term in terms if not term.product and not term.is_common]
  why = _obstacle(products, whole, like_terms)
  if not why:
    return Strategy('products', '', like_terms)
  # Terms that are no product would be held of all examples at once.
  is_held = n * count(program, whole) <= room
  # Rows no larger than what they are made of cost no memory; nor do few. But
  # XLA:CPU is slow at convolutions that an example has for itself.
  most = max(n * count(program, products), costs.room())
  by_patches = is_held and any(term.product.num_extra for term in products)
  example = Strategy(
    'example', f'{why}; no larger than its operands', like_terms)
  if not by_patches and n * width <= min(room, costs.room()):
    return example
  contracted = contracted_of.find(terms)
  if contracted and (contracted.whole or n * size <= room):
    own = [contracted.whole] if contracted.whole else []
    return Strategy('contracted', why, _joined(own, n), contracted)
  if not by_patches and n * width <= min(room, most):
    return example
  return Strategy('mixture' if is_held else 'fallback', why, like_terms)


def _obstacle(products, whole, like_terms):
  """Say why norms cannot be read off the factors; '' if they can.

  ‖P + Q‖² = ‖P‖² + ‖Q‖² + 2⟨P, Q⟩, so each two products must either be joined
  or lie apart, and no linear equation behind may change inner products.
  """
  others = [op.name for term in products for op in term.ops
            if not op.is_isometric]
  if others:
    return f'{others[0]} behind a product'
  if whole:
    return 'a summand that is no product'
  apart = all(disjoint(one.terms[0], other.terms[0])
              for one, other in itertools.combinations(like_terms, 2))
  return '' if apart else 'products that lie differently'


def _joined(products, num_examples):
  """Collect products that lie alike."""
  alike: dict[Any, list] = {}
  for term in products:
    alike.setdefault(term.place[0], []).append(term)
  return [LikeTerms(terms, num_examples) for terms in alike.values()]


def count(program, terms):
  """Count the numbers, per example, that the operands of terms hold."""
  return sum(math.prod(program.shape_and_dtype(x)[0])
             for term in terms for x in term.operands)
