"""Assignment of leaves to buckets, each of which is one collective.

A collective should move more than it costs to start, so small leaves share a
bucket. A leaf that is a large part of the gradient is cut up instead, because
a bucket is held in memory twice while it is sent.

A bucket is sent when the backward pass has reached its first leaf. Only leaves
of neighboring layers share one, so that the others need not wait for the end
of the pass.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv.aggregation._exchange import membership

# Leaves with fewer elements are packed into buckets of at most four times as
# many, because packing copies them.
SMALL_LEAF = 65_536
# Leaves larger than this fraction of the gradient are cut up.
LARGEST_FRACTION = 1 / 4
# Small leaves share a bucket if no more than this fraction of the gradient, or
# as many elements as a bucket may have, lie from the first of them to the last.
WIDEST_FRACTION = 1 / 16


class Span(NamedTuple):
  """A range of one leaf's elements.

  Attributes:
    leaf: Index of the leaf.
    start: First element.
    stop: End of the range.
  """

  leaf: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Elements of one dtype, group and kind of sharding that travel together.

  Attributes:
    spans: Where the elements come from.
    group: Index of the group of the leaves.
    is_sharded: Whether the leaves are sharded over `Layout.sharded_over`.
  """

  spans: tuple[Span, ...]
  group: int
  is_sharded: bool

  @property
  def size(self) -> int:
    """Number of elements."""
    return sum(span.stop - span.start for span in self.spans)


@dataclasses.dataclass(frozen=True)
class Plan:
  """How one gradient is packed into buckets.

  Attributes:
    like: The gradient, as shapes and dtypes.
    buckets: The buckets, in the order of the layers.
    num_groups: Number of groups of leaves that are decided separately.
    leaf_by_leaf: Whether each bucket is one whole leaf.
  """

  like: Any
  buckets: tuple[Bucket, ...]
  num_groups: int
  leaf_by_leaf: bool

  def dtype(self, bucket: Bucket) -> Any:
    """Return the dtype of the leaves of a bucket."""
    return jax.tree.leaves(self.like)[bucket.spans[0].leaf].dtype


def plan(
  grads: optax.Updates,
  participants: membership.Participants,
  *,
  leaf_by_leaf: bool = False,
) -> Plan:
  """Distribute the leaves of a gradient over buckets, layer by layer.

  Args:
    grads: This worker's gradient.
    participants: The workers and the layout of their gradients.
    leaf_by_leaf: Give each leaf a bucket of its own, regardless of its size.
  """
  paths = jax.tree_util.tree_leaves_with_path(grads)
  groups = participants.group_of_leaves(grads)
  total = sum(leaf.size for _, leaf in paths)
  longest = max(1, SMALL_LEAF, int(LARGEST_FRACTION * total))
  widest = max(4 * SMALL_LEAF, int(WIDEST_FRACTION * total))
  buckets, open_buckets, seen = [], {}, 0
  for i in _in_order_of_layers([path for path, _ in paths]):
    path, leaf = paths[i]
    kind = int(groups[i]), participants.layout.shards(path)
    if leaf_by_leaf:
      buckets.append(Bucket((Span(i, 0, leaf.size),), *kind))
    elif leaf.size >= SMALL_LEAF:
      buckets += (Bucket((span,), *kind) for span in _cut(i, leaf, longest))
    else:
      _add_small_leaf(buckets, open_buckets, i, leaf, kind, seen, widest)
    seen += leaf.size
  return Plan(jax.eval_shape(lambda: grads), tuple(buckets),
              participants.num_groups(grads), leaf_by_leaf)


def pack(leaves: Sequence[jax.Array], bucket: Bucket, n: int) -> jax.Array:
  """Collect a bucket's elements into one row per worker, [n, d]."""
  return cut_into_rows(_concatenate(
    [leaves[i].ravel()[start:stop] for i, start, stop in bucket.spans]), n)


def unpack(plan: Plan, vectors: Sequence[jax.Array]) -> Any:
  """Build a tree from one vector per bucket; padding at the end is dropped."""
  like, treedef = jax.tree.flatten(plan.like)
  parts = [[] for _ in like]
  for bucket, vector in zip(plan.buckets, vectors):
    place = 0
    for leaf, start, stop in bucket.spans:
      parts[leaf].append(vector[place:place + stop - start])
      place += stop - start
  return treedef.unflatten(
    _concatenate(found).reshape(x.shape) for found, x in zip(parts, like))


def cut_into_rows(vector: jax.Array, n: int) -> jax.Array:
  """Cut a vector into n equal rows; the last one is padded with zeros."""
  width = max(1, -(-vector.size // n))
  return jnp.pad(vector, (0, n * width - vector.size)).reshape(n, width)


def _cut(i, leaf, longest):
  return [Span(i, start, min(start + longest, leaf.size))
          for start in range(0, leaf.size, longest)]


def _in_order_of_layers(paths):
  """Return the places of the leaves with layer_2 before layer_10.

  The keys of dictionaries come sorted letter by letter; other containers keep
  their own order.
  """
  first = {}
  for i, path in enumerate(paths):
    for depth in range(len(path)):
      first.setdefault(path[:depth + 1], i)

  def place(i):
    return [_by_number(key.key) if _is_named(key)
            else first[paths[i][:depth + 1]]
            for depth, key in enumerate(paths[i])]

  return sorted(range(len(paths)), key=place)


def _is_named(key):
  return isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str)


def _by_number(name):
  """Split a name into letters and numbers, which compare as numbers."""
  return [int(part) if part.isdecimal() else part
          for part in re.split('([0-9]+)', name)]


def _add_small_leaf(buckets, open_buckets, i, leaf, kind, seen, widest):
  """Add a leaf to the bucket of its kind that was opened last, if it fits."""
  span, kind_and_dtype = Span(i, 0, leaf.size), (leaf.dtype, *kind)
  place, start = open_buckets.get(kind_and_dtype, (None, 0))
  if (place is None or buckets[place].size + leaf.size > 4 * SMALL_LEAF
      or seen + leaf.size - start > widest):
    open_buckets[kind_and_dtype] = len(buckets), seen
    buckets.append(Bucket((span,), *kind))
  else:
    buckets[place] = dataclasses.replace(
      buckets[place], spans=(*buckets[place].spans, span))


def _concatenate(vectors):
  return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors)
