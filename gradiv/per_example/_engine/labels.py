"""Where a product lies in a parameter, so that like terms can be joined.

A label (role, part, size) says where one axis of a product comes from: role
'z' for a block, 'a' for u or 'b' for v in Σ_k u_k ⊗ v_k; the part of that
factor, counted from the slowest axis; and its size. The labels of a term are
listed in the order of memory, from the slowest to the fastest axis, and may be
finer than the axes of the array:

  einsum('ti,ihd->thd', x, w)     w [i, h, d]      (a 0 i) (b 0 h) (b 1 d)
  the same, w reshaped to 2-D     w [i, h·d]       (a 0 i) (b 0 h) (b 1 d)
  its transpose                   w.T [h·d, i]     (b 0 h) (b 1 d) (a 0 i)

Reshapes leave the order of memory alone, so only transposes change labels.
"""

import math
from collections.abc import Iterable

Labels = tuple[tuple[str, int, int], ...]

# The role of an axis that an array was broadcast to.
NO_FACTOR = '*'


def numbered(labels: Iterable[tuple[str, int]]) -> Labels:
  """Number the parts (role, size) of each factor in the order they lie in."""
  seen: dict[str, int] = {}
  found = []
  for role, size in labels:
    found.append((role, seen.get(role, 0), size))
    seen[role] = seen.get(role, 0) + 1
  return tuple(found)


def of_axes(
  labels: Labels, shape: tuple[int, ...]
) -> list[Labels] | None:
  """Say of which parts each axis of an array of some shape consists.

  None where a part is spread over two axes.
  """
  axes, rest = [], list(labels)
  for size in shape:
    mine: list[tuple[str, int, int]] = []
    while rest and (math.prod(s for *_, s in mine) < size or rest[0][2] == 1):
      mine.append(rest.pop(0))
    if math.prod(s for *_, s in mine) != size:
      return None
    axes.append(tuple(mine))
  return axes


def transposed(
  labels: Labels, shape: tuple[int, ...], permutation: tuple[int, ...]
) -> Labels | None:
  """Follow a transpose of an array of some shape.

  Returns:
    The labels afterwards; None where a part is spread over two axes, as no
    label can then say where it lies.
  """
  axes = of_axes(labels, shape)
  if axes is None:
    return None
  return tuple(part for d in permutation for part in axes[d])


def summed(
  labels: Labels, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Labels | None:
  """Follow a sum over some axes of an array of some shape.

  Returns:
    The labels of the axes that are left; None where a part is spread over two
    axes.
  """
  by_axis = of_axes(labels, shape)
  if by_axis is None:
    return None
  return tuple(part for d, parts in enumerate(by_axis) if d not in axes
               for part in parts)


def spread(
  labels: Labels, before: tuple[int, ...], after: tuple[int, ...],
  kept: tuple[int, ...],
) -> Labels | None:
  """Follow a broadcast; the new axes come from no factor.

  Args:
    labels: The labels before.
    before: Shape before.
    after: Shape afterwards.
    kept: Where each axis lies afterwards.

  Returns:
    The labels, with `NO_FACTOR` for the new axes; None where a part is spread
    over two axes.
  """
  by_axis = of_axes(labels, before)
  if by_axis is None:
    return None
  found = [[(NO_FACTOR, d, size)] for d, size in enumerate(after)]
  for d, size, parts in zip(kept, before, by_axis):
    if size == after[d]:
      found[d] = [*parts]
  return tuple(part for parts in found for part in parts)


def normalized(labels: Labels) -> tuple[Labels, bool]:
  """Bring labels that mean the same place into the same form.

  * Axes of one are dropped.
  * The factor that comes first is called 'a'. A tied embedding W is used as
    W[token] and as W.T, so its two products are u ⊗ v and v ⊗ u; swapping the
    roles of the second lets both be joined.
  * Parts that follow each other both in the factor and in memory are merged,
    so that (b 0 h) (b 1 d) equals (b 0 h·d); what remains is renumbered.

  Returns:
    The labels, and whether the two factors were swapped.
  """
  axes = [x for x in labels if x[2] > 1]
  turned = next((role for role, *_ in axes if role in 'ab'), 'a') == 'b'
  if turned:
    swap = {'a': 'b', 'b': 'a'}
    axes = [(swap.get(role, role), part, size) for role, part, size in axes]
  # A rank counts parts through all roles: neighbors in a factor differ by one.
  ranks = {x: i for i, x in enumerate(sorted(axes))}
  merged: list[tuple] = []  # (role, first rank, last rank, size)
  for x in axes:
    if merged and merged[-1][0] == x[0] and merged[-1][2] + 1 == ranks[x]:
      merged[-1] = (x[0], merged[-1][1], ranks[x], merged[-1][3] * x[2])
    else:
      merged.append((x[0], ranks[x], ranks[x], x[2]))
  starts = sorted((role, first) for role, first, _, _ in merged)
  return tuple((role, starts.index((role, first)), size)
               for role, first, _, size in merged), turned
