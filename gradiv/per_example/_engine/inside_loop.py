"""Finish a product within the loop that makes it, one step at a time.

In a scan over layers, each step makes the product of one layer. Lifted out of
the loop, the factors of all layers would be held at once, which is what
rematerialization is there to avoid. For sums they can be finished inside:

  lifted     scan ──► x, δ [layers, n, ...] ──► Σ_i P_i, ‖P_i‖²
  inside     scan ──► for each layer: x, δ [n, ...] ──► Σ_i P_i, ‖P_i‖²

But the program is that of one example, and is run over the batch by `vmap`:
within the loop, the example axis is not visible. A function with a rule of its
own for `vmap` (`jax.custom_batching.custom_vmap`) sees it: called inside the
loop with the factors of one example, it receives those of the whole batch when
`vmap` goes through the loop, and returns a sum that has no example axis.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradiv.per_example._engine.like_terms import LikeTerms
from gradiv.per_example._engine.values import Computed, Inner


def request(like_terms: LikeTerms) -> Inner | None:
  """Ask for Σ_i P_i and ‖P_i‖² inside the loop that stacks the products.

  Returns:
    What to ask the program for; None unless there is a single product, in a
    loop that keeps one for each step.
  """
  term, n = like_terms.terms[0], like_terms.num_examples
  inner = [x for x in term.operands
           if isinstance(x, Inner) and x.branch is None]
  if len(like_terms.terms) > 1 or len(inner) < len(term.operands) or (
      [kind for kind, _ in term.stacks[:1]] != ['keep']):
    return None
  # The term as the body of the loop sees it.
  inside = dataclasses.replace(
    term, operands=tuple(x.atom for x in inner),
    stacks=term.stacks[1:], ops=())
  own = LikeTerms([inside], n)

  @jax.custom_batching.custom_vmap
  def finish(*operands):
    block, squares = own.blocks(
      {atom: x[None] for atom, x in zip(inside.operands, operands)})
    return block, squares[0]

  @finish.def_vmap
  def finish_all(axis_size, is_batched, *operands):
    # What does not depend on the example comes without an axis.
    rows = [x if batched else jnp.broadcast_to(x[None], (n, *x.shape))
            for x, batched in zip(operands, is_batched)]
    # The sum has no example axis, the squares do.
    return own.blocks(dict(zip(inside.operands, rows))), (False, True)

  return Inner(inner[0].equation, None, Computed(finish, inside.operands))


def is_requested(atom: Any) -> bool:
  """Return whether a value was asked for by `request`."""
  return isinstance(atom, Inner) and isinstance(atom.atom, Computed)


def read(
  like_terms: LikeTerms, blocks: jax.Array, squares: jax.Array,
  scale: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Make `LikeTerms.sums` of the results, one for each step of the loop.

  Args:
    like_terms: What `request` was called with.
    blocks: Sums over the examples: [steps, z, a, b].
    squares: Squared norms of each example: [n, steps].
    scale: Number to multiply the sum by, or None.
  """
  block = blocks.reshape(-1, *blocks.shape[2:])
  if scale is not None:
    block = block * scale
  return like_terms.put(block), jnp.sum(squares, 1)
