"""The layout in which the gradients of all workers meet: slice by slice.

Each of n workers holds a gradient of D elements. After `scatter`, each holds
the same n-th part of *every* worker's gradient, [n, D/n], for the traffic of
the first half of an all-reduce. There, any rule can act that needs all the
values at one coordinate, or sums over the coordinates. `gather`, the second
half of an all-reduce, brings the slices of the result back together. No worker
ever holds n·D elements.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import compat
from gradiv.aggregation._exchange import layout as wires

# Leaves below this travel together, in buckets of at most four times as much:
# a collective should move more than it costs to start, and the bucket is a
# copy.
SMALL_LEAF = 65_536
# Leaves above this share of all are cut, as what is on its way is held twice.
LARGEST_SHARE = 1 / 4


class Piece(NamedTuple):
  """A part of a leaf: its elements from `start` up to `stop`."""

  leaf: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Bucket:
  """What travels together: of one dtype, group and kind of sharding."""

  pieces: tuple[Piece, ...]
  group: str
  is_sharded: bool

  @property
  def size(self) -> int:
    """Count the elements."""
    return sum(p.stop - p.start for p in self.pieces)


@dataclasses.dataclass(frozen=True)
class Slices:
  """This worker's slice of the gradients of all workers.

  Attributes:
    wire: The layout.
    like: The tree of one worker, as shapes and dtypes.
    buckets: What travelled together.
    rows: [n, d] for each bucket. Row i is of worker i, and zero where that
      worker's gradient is not finite.
    extra: [k, d] for each bucket: the slice of k trees that all workers know.
    is_finite: As in `wire.Admitted`.
    num_left_out: As in `wire.Admitted`.
  """

  wire: wires.Wire
  like: Any
  buckets: tuple[Bucket, ...]
  rows: tuple[jax.Array, ...]
  extra: tuple[jax.Array, ...]
  is_finite: jax.Array
  num_left_out: jax.Array


def scatter(
  admitted: wires.Admitted, extra: Sequence[optax.Updates] = ()
) -> Slices:
  """Give each worker its slice of all gradients: one all-to-all of D elements.

  Args:
    admitted: What `wire.admit` gives.
    extra: Trees like the gradient, the same on each worker: sliced in place.
  """
  leaves, names = jax.tree.leaves(admitted.grads), admitted.wire.names(
    'axis_name')
  met = plan(admitted)
  send = lambda flat: lax.all_to_all(flat, names, 0, 0, tiled=True)
  others = [jax.tree.leaves(tree) for tree in extra]
  return dataclasses.replace(
    met,
    rows=tuple(send(pack(leaves, b, names)) for b in met.buckets),
    extra=tuple(_own_rows(others, leaves, b, names) for b in met.buckets))


def plan(admitted: wires.Admitted) -> Slices:
  """Decide what travels together; nothing does yet."""
  grads = admitted.grads
  buckets = _plan(jax.tree_util.tree_leaves_with_path(grads), admitted.wire)
  return Slices(
    admitted.wire, jax.eval_shape(lambda: grads), buckets, (), (),
    admitted.is_finite, admitted.num_left_out)


def gather(met: Slices, parts: Sequence[jax.Array]) -> optax.Updates:
  """Put the slices of a result together: one all-gather of D elements.

  Args:
    met: What they were computed from.
    parts: [d] for each bucket.
  """
  like = jax.tree.leaves(met.like)
  names = met.wire.names('axis_name')
  return unpack(met, [
    gather_flat(part.astype(like[bucket.pieces[0].leaf].dtype), names)
    for bucket, part in zip(met.buckets, parts)])


def unpack(met: Slices, flats: Sequence[jax.Array]) -> optax.Updates:
  """Make a tree of the whole of each bucket, padding included."""
  like, treedef = jax.tree.flatten(met.like)
  leaves = [[] for _ in like]
  for bucket, flat in zip(met.buckets, flats):
    place = 0
    for leaf, start, stop in bucket.pieces:
      leaves[leaf].append(flat[place:place + stop - start])
      place += stop - start
  return treedef.unflatten(
    _concatenate(found).reshape(x.shape) for found, x in zip(leaves, like))


def keep_sliced(met: Slices, parts: Sequence[jax.Array]) -> optax.Updates:
  """Leave the result where it is: the tree of `slice_leaves`, no traffic."""
  like, treedef = jax.tree.flatten(met.like)
  if not met.wire.leaf_by_leaf:
    raise ValueError('leaf_by_leaf=False: must be True to keep slices')
  return treedef.unflatten(
    part.astype(x.dtype) for part, x in zip(parts, like))


def slice_leaves(tree: Any, axis_name: workers.AxisName) -> Any:
  """Take this worker's part of each leaf of a common tree: [⌈size/n⌉].

  The last part is padded with zeros. An optimizer that keeps its state for
  these parts alone, as ZeRO does, takes its updates from an aggregation with
  ``sharded=True``; `gather_leaves` is the way back.

  >>> own = lambda _: slice_leaves(jnp.arange(3.), 'workers')
  >>> jax.vmap(own, axis_name='workers')(jnp.zeros(2)).tolist()
  [[0.0, 1.0], [2.0, 0.0]]
  """
  names = workers.names_of(axis_name)
  own = lambda x: lax.dynamic_index_in_dim(
    _deal(x.ravel(), names), lax.axis_index(names), keepdims=False)
  return jax.tree.map(own, tree)


def gather_leaves(parts: Any, like: Any, axis_name: workers.AxisName) -> Any:
  """Undo `slice_leaves`: an all-gather of each leaf.

  Args:
    parts: What `slice_leaves` gives on each worker.
    like: A tree with the shapes of the whole.
    axis_name: The axis, or axes, of the workers.
  """
  names = workers.names_of(axis_name)
  whole = lambda part, x: (
    gather_flat(part, names)[:x.size].reshape(x.shape))
  return jax.tree.map(whole, parts, like)


def _plan(paths, wire):
  """Deal the leaves into buckets, in order."""
  buckets, open_buckets = [], {}
  longest = max(1, SMALL_LEAF, int(
    LARGEST_SHARE * sum(leaf.size for _, leaf in paths)))
  for i, (path, leaf) in enumerate(paths):
    kind = leaf.dtype, wire.group_of(path), wire.shards(path)
    if wire.leaf_by_leaf or leaf.size >= SMALL_LEAF:
      step = leaf.size if wire.leaf_by_leaf else longest
      buckets += [
        Bucket((Piece(i, start, min(start + step, leaf.size)),), *kind[1:])
        for start in range(0, max(leaf.size, 1), max(step, 1))]
      continue
    whole, place = Piece(i, 0, leaf.size), open_buckets.get(kind)
    if place is None or buckets[place].size + leaf.size > 4 * SMALL_LEAF:
      open_buckets[kind] = len(buckets)
      buckets.append(Bucket((whole,), *kind[1:]))
    else:
      buckets[place] = dataclasses.replace(
        buckets[place], pieces=(*buckets[place].pieces, whole))
  return tuple(buckets)


def _deal(flat, names):
  """Cut a vector into one row a worker, the last padded with zeros."""
  n = workers.num_workers(names)
  width = max(1, -(-flat.size // n))
  return jnp.pad(flat, (0, n * width - flat.size)).reshape(n, width)


def pack(leaves, bucket: Bucket, names: tuple[str, ...]) -> jax.Array:
  """Cut what travels together into one row a worker: [n, d]."""
  return _deal(_concatenate(
    [leaves[i].ravel()[start:stop] for i, start, stop in bucket.pieces]),
    names)


def _concatenate(flat):
  return flat[0] if len(flat) == 1 else jnp.concatenate(flat)


def _own_rows(trees, like, bucket, names):
  own = lambda leaves: lax.dynamic_index_in_dim(
    pack(leaves, bucket, names), lax.axis_index(names), keepdims=False)
  rows = [own(leaves) for leaves in trees]
  return (jnp.stack(rows) if rows
          else jnp.zeros((0, 0), like[bucket.pieces[0].leaf].dtype))


def gather_flat(x: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Concatenate the workers' vectors."""
  # Axis by axis, the last first: under vmap, all_gather takes no tuple.
  for name in reversed(names):
    x = compat.all_gather_common(x, name)
  return x
