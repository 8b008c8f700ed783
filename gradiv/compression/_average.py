"""Sum gradients that are rounded on their way, in blocks of a few bits.

Each bucket of leaves is cut into blocks, and the blocks into one slice per
worker. Every worker rounds its slices at random and sends each to its owner (an
all-to-all). The owner sums the slices in float32, rounds the sum, and sends it
to all (an all-gather).

Workers under `vmap` send nothing: their numbers are rounded inside the loop
that sums them. All random bits belong to a worker and a place in the bucket, so
the result is the same.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers
from gradiv._common import draws, hashing, layout as layouts, one_device, trees
from gradiv.aggregation._exchange import buckets, finite, slices
from gradiv.compression import _lanes, _packing


def sum_of_rounded(
  own: finite.Contribution, step_key: jax.Array, packing: _packing.Packing
) -> tuple:
  """Sum rounded gradients over the workers.

  Returns:
    The sum; Σ‖g_i‖² of the gradients as they are; an estimate of
    Σ_{i≠j} ⟨g_i, g_j⟩, unbiased because workers round independently; which
    workers take part, [n]; and the number of gradients left out.
  """
  participants = own.participants
  squares = jnp.where(own.is_finite, layouts.sq_norm_of_shard(
    own.grads, participants.layout).astype(jnp.float32), 0)

  def by_exchange(key, grads, is_finite, num_left_out, squares):
    sender = dataclasses.replace(
      own, grads=grads, is_finite=is_finite, num_left_out=num_left_out)
    total, cross_terms = _exchange_buckets(sender, key, packing)
    # One all-reduce of n + 3 numbers.
    (squares, cross_terms), present, left_out = finite.sum_with_presence(
      sender, (squares, cross_terms))
    return total, squares, cross_terms, present, left_out

  def on_rows(key, grads, is_finite, num_left_out, squares):
    leaves, treedef = jax.tree.flatten(grads)
    plan = buckets.plan(
      treedef.unflatten([x[0] for x in leaves]), participants)
    total, cross_terms = _sum_buckets(
      plan, leaves, is_finite, key[0], packing)
    left_out = jnp.round(num_left_out.sum()).astype(jnp.int32)
    return total, squares.sum(), cross_terms, is_finite, left_out

  if participants.count == 1 or participants.layout.shard_names:
    on_rows = None
  return one_device.directly(
    by_exchange, on_rows, participants.names, step_key, own.grads,
    own.is_finite, own.num_left_out, squares)


def _exchange_buckets(own, step_key, packing):
  """Sum over the workers, and compute this worker's part of the estimate."""
  participants, cross_terms = own.participants, jnp.float32(0)
  if participants.count == 1:
    return lax.psum(own.or_zeros(), participants.names), cross_terms
  leaves, sums = jax.tree.leaves(own.grads), []
  plan = buckets.plan(own.grads, participants)
  present = slices.gather_presence(own)
  for i, bucket in enumerate(plan.buckets):
    key = draws.shard_key(
      jax.random.fold_in(step_key, i),
      participants.layout.shard_names if bucket.is_sharded else ())
    vector = buckets.pack(leaves, bucket, 1)[0].astype(jnp.float32)
    total, products = _exchange(vector, present, key, packing, participants)
    cross_terms += participants.layout.count_once(products, bucket.is_sharded)
    sums.append(total[:bucket.size])
  return buckets.unpack(plan, sums), cross_terms


def _exchange(vector, present, key, packing, participants):
  """Sum a bucket over the workers, and compute its cross terms."""
  names, n = participants.names, participants.count
  _, width = _cut(vector.size, n, packing)
  key_to, key_back = jax.random.split(key)
  rows = jnp.pad(vector, (0, n * width - vector.size)).reshape(n, width)
  payload = packing.encode(workers.worker_key(key_to, names), rows)
  payload = lax.all_to_all(payload, names, 0, 0, tiled=True)
  total, squares = packing.sum(payload, width, present)
  cross_terms = trees.sq_norm(total) - squares
  # The owners share a key: what they round lies at different places.
  payload = packing.encode(
    key_back, total[None], first=participants.index * width)
  payload = slices.all_gather_vector(payload[0], names)
  return packing.decode(payload.reshape(n, -1), width).ravel(), cross_terms


def _sum_buckets(plan, leaves, present, step_key, packing):
  """Do as `_exchange_buckets` with the rows of all workers, leaves [n, ...].

  The cross terms are those of all workers.
  """
  sums, cross_terms = [], jnp.float32(0)
  for i, bucket in enumerate(plan.buckets):
    total, products = _sum_rows(
      leaves, bucket, present, jax.random.fold_in(step_key, i), packing)
    cross_terms += products
    sums.append(total)
  return buckets.unpack(plan, sums), cross_terms


def _sum_rows(leaves, bucket, present, key, packing):
  """Do as `_exchange` with a bucket of all workers, leaves [n, ...]."""
  if not bucket.size:
    return jnp.zeros(0, jnp.float32), jnp.float32(0)
  n = len(present)
  size, _ = _cut(bucket.size, n, packing)
  # The last block is not full, and padding would make all others slow.
  whole = bucket.size - bucket.size % size
  parts = [(0, whole)] if whole else []
  if bucket.size % size:
    parts.append((whole, bucket.size))
  key_to, key_back = jax.random.split(key)
  words_to = jax.vmap(lambda i: hashing.words(
    workers.key_of_worker(key_to, i)))(jnp.arange(n))
  words_back = hashing.words(key_back)
  sums, cross_terms = [], jnp.float32(0)
  for first, last in parts:
    def blocks(first=first, last=last):
      rows = _columns(leaves, bucket, first, last).astype(jnp.float32)
      rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
      return rows.reshape(n, -1, *_lanes.shape(size))

    total, products = _sum_blocks(blocks, present, words_to, first, packing)
    sums.append(packing.dequantize(*packing.round(words_back, total, first)))
    cross_terms += products
  return jnp.concatenate([total.ravel() for total in sums]), cross_terms


def _columns(leaves, bucket, first, last):
  """Return some elements of a bucket for all workers, from leaves [n, ...]."""
  pieces, place = [], 0
  for leaf, start, stop in bucket.spans:
    low, high = max(first - place, 0), min(last - place, stop - start)
    if low < high:
      rows = leaves[leaf].reshape(len(leaves[leaf]), -1)
      pieces.append(rows[:, start + low:start + high])
    place += stop - start
  return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, 1)


def _sum_blocks(blocks, present, words, first, packing):
  """Sum the blocks of n workers, ``blocks()``, [n, blocks, chunks, lanes]."""
  scale = packing.scale(blocks())
  kept = jnp.where(present[:, None], scale, 0)

  def sum_and_products():
    rows = blocks()

    def with_square(i):
      rounded = packing.dequantize(packing.round_to(
        scale[i], words[i], rows[i], first), kept[i])
      return lax.complex(rounded, rounded**2)

    both = _lanes.add(with_square, len(present))
    return lax.complex(both.real, both.real**2 - both.imag)

  # XLA would round once more for each use of the result. So two results are
  # one complex number, and it comes out of a condition, which is not taken
  # apart. The condition begins at the leaves, as what enters it is copied.
  zeros = jax.eval_shape(sum_and_products)
  both = lax.cond(present.any(), sum_and_products,
                  lambda: jnp.zeros(zeros.shape, zeros.dtype))
  products = lax.optimization_barrier(both.sum(-2)).sum().imag
  return both.real, products


def _cut(size, n, packing):
  """Return the size of a block, and the elements of a slice of its blocks."""
  block_size = packing.even_block_size(max(1, -(-size // n)))
  num_blocks = -(-size // block_size)
  return block_size, max(1, -(-num_blocks // n)) * block_size
