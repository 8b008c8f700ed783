"""The two factors of a product Σ_k u_k ⊗ v_k, and what follows from them.

A factor holds u_k for all blocks z and positions k: as a dense array
[z, k, a], or as the `OneHot` rows of an embedding, which are never written
out. The functions below take factors of all examples, [n, z, k, a], and rest
on

  ⟨u ⊗ v, x ⊗ y⟩ = ⟨u, x⟩⟨v, y⟩
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import row_norms


@functools.partial(jax.tree_util.register_dataclass,
                   data_fields=['index'], meta_fields=['size'])
@dataclasses.dataclass(frozen=True)
class OneHot:
  """Rows with a single one, or without any if the index is out of range.

  Attributes:
    index: Position of the one in each row: [..., z, k].
    size: Length of a row.
  """

  index: jax.Array
  size: int


Factor = jax.Array | OneHot


def inner(u: Factor, v: Factor) -> jax.Array:
  """Compute ⟨u_k, v_l⟩ within each example: [n, z, k, l]."""
  if isinstance(u, OneHot) and isinstance(v, OneHot):
    inside = (u.index >= 0) & (u.index < u.size)
    same = u.index[..., :, None] == v.index[..., None, :]
    return (same & inside[..., :, None]).astype(jnp.float32)
  if isinstance(u, OneHot):
    return jnp.swapaxes(inner(v, u), -1, -2)
  if isinstance(v, OneHot):
    return _pick(u, v.index[..., None, :], v.size)
  return _einsum('nzka,nzla->nzkl', u, v)


def inner_across(u: Factor, v: Factor) -> jax.Array:
  """Compute ⟨u_k, v_l⟩ between all examples: [n, m, z, k, l]."""
  one = lambda x: jax.tree.map(lambda leaf: leaf[None], x)
  if isinstance(u, OneHot) or isinstance(v, OneHot):
    # Row by row: the index of an example is looked up in all others.
    against = jax.vmap(lambda row: jax.vmap(
      lambda other: inner(one(row), one(other))[0])(v))
    return against(u)
  return _einsum('nzka,mzla->nmzkl', u, v)


def product(
  u: Factor, v: Factor, precision: Any = None, turned: str = ''
) -> jax.Array:
  """Write out Σ_k u_k ⊗ v_k of each example: [n, z, a, b].

  Args:
    u: One factor.
    v: The other.
    precision: Precision of the product.
    turned: The factor, 'a' or 'b', that is to be read with its positions last.
      XLA:CPU would copy it first if it lies so, as it does not see through the
      transpose of many matrices.
  """
  if isinstance(u, OneHot):
    return _scatter(u, v)
  if isinstance(v, OneHot):
    return jnp.swapaxes(_scatter(v, u), -1, -2)
  axes = ['nzka', 'nzkb']
  if turned:
    i = 'ab'.index(turned)
    axes[i] = f'nz{turned}k'
    u, v = (jnp.swapaxes(x, -1, -2) if i == j else x
            for j, x in enumerate((u, v)))
  return jnp.einsum(f'{axes[0]},{axes[1]}->nzab', u, v, precision=precision,
                    preferred_element_type=trees.wide_dtype(u.dtype))


def product_sum(u: Factor, v: Factor, precision: Any = None) -> jax.Array:
  """Sum the products of all examples: [z, a, b], as a plain step does."""
  if isinstance(u, OneHot) or isinstance(v, OneHot):
    fold = lambda x: jnp.moveaxis(x, 0, 1).reshape(
      1, x.shape[1], -1, *x.shape[3:])
    u, v = (jax.tree.map(fold, x) for x in (u, v))
    return product(u, v)[0]
  if u.shape[1] == 1:
    # The very product of a plain step, which needs no other layout.
    flat = lambda x: x.reshape(-1, x.shape[-1])
    return lax.dot_general(
      flat(u), flat(v), (((0,), (0,)), ((), ())), precision=precision,
      preferred_element_type=trees.wide_dtype(u.dtype))[None]
  return jnp.einsum('nzka,nzkb->zab', u, v, precision=precision,
                    preferred_element_type=trees.wide_dtype(u.dtype))


def inner_common(u: Factor, v: Factor, common: jax.Array) -> jax.Array:
  """Compute Σ_k u_kᵀ C v_k with C [z, a, b] common to the examples: [n]."""
  if isinstance(v, OneHot):
    return inner_common(v, u, jnp.swapaxes(common, 1, 2))
  if isinstance(u, OneHot):
    columns = jnp.swapaxes(common, 1, 2)[None]
    through = jnp.swapaxes(_pick(jnp.broadcast_to(
      columns, (len(u.index), *columns.shape[1:])), u.index[:, :, None], u.size,
    ), -1, -2)
  else:
    through = _einsum('nzka,zab->nzkb', u, common.astype(
      trees.wide_dtype(u.dtype)))
  return jnp.sum(through * trees.widen(v), (1, 2, 3))


def contracted(
  u: Any, v: Any, common: jax.Array, kept: str
) -> jax.Array:
  """Sum C ⊙ Σ_k u_k ⊗ v_k, with C [z, a, b], over the roles that aren't kept.

  Args:
    u: One factor, dense.
    v: The other.
    common: C.
    kept: 'za', 'zb' or 'z'.

  Returns:
    [n, z, a], [n, z, b] or [n, z].
  """
  if kept == 'za':
    return contracted(v, u, jnp.swapaxes(common, 1, 2), 'zb')
  common = common.astype(trees.wide_dtype(u.dtype))
  # A single block needs no other layout.
  through = (_einsum('nzka,ab->nzkb', u, common[0]) if len(common) == 1
             else _einsum('nzka,zab->nzkb', u, common))
  both = through * trees.widen(v)
  if kept == 'z':
    return jnp.sum(both, (2, 3))
  # As a product, because XLA:CPU is slow at sums over an axis in the middle.
  return jnp.einsum('k,nzkb->nzb', jnp.ones(both.shape[2], both.dtype), both,
                    precision=lax.Precision.HIGHEST)


def sq_norms(u: Factor) -> jax.Array:
  """Compute Σ_k ‖u_k‖²: [n, z]."""
  if isinstance(u, OneHot):
    inside = (u.index >= 0) & (u.index < u.size)
    return inside.sum(-1).astype(jnp.float32)
  n, z, k, a = u.shape
  return row_norms.sq_norms(u.reshape(n * z, k * a)).reshape(n, z)


def sq_norms_of_sum(pairs: list[tuple[Factor, Factor]]) -> list[jax.Array]:
  """Compute ‖Σ_s Σ_k u_k ⊗ v_k‖² = Σ_st Σ_kl ⟨u_k, x_l⟩⟨v_k, y_l⟩.

  s and t run over the pairs (u, v) and (x, y). Returns, for each s and t ≤ s,
  the summands [n, z, k, l].
  """
  parts = []
  for s, (u, v) in enumerate(pairs):
    for t, (x, y) in enumerate(pairs[:s + 1]):
      both = inner(u, x) * inner(v, y)
      parts.append(both if s == t else 2 * both)
  return parts


def weighted_rows(u: OneHot, v: jax.Array, common: jax.Array) -> jax.Array:
  """Compute Σ_a u_ka C_ab v_kb, row k of v weighed by a row of C: like v."""
  # Rows out of range are zero; -1 would mean the last row.
  index = jnp.where(u.index < 0, u.size, u.index)
  take = jax.vmap(lambda rows, index: jnp.take(
    rows, index, 0, mode='fill', fill_value=0))
  return jax.vmap(lambda index: take(common, index))(index) * trees.widen(v)


def squared(u: Factor) -> Factor:
  """Square each element; ones stay ones."""
  return u if isinstance(u, OneHot) else jnp.square(trees.widen(u))


def dtype_of(u: Factor, v: Factor) -> jnp.dtype:
  """Return the dtype of the product of two factors."""
  dense = [x.dtype for x in (u, v) if not isinstance(x, OneHot)]
  return jnp.result_type(*dense)


def _einsum(formula, u, v):
  # Inner products may cancel, so the reduced precision of an accelerator will
  # not do.
  return jnp.einsum(formula, u, v, precision=lax.Precision.HIGHEST,
                    preferred_element_type=trees.wide_dtype(u.dtype))


def _pick(dense, index, size):
  """Return dense[..., index], and zero where the index is out of range."""
  inside = (index >= 0) & (index < size)
  index = jnp.broadcast_to(jnp.clip(index, 0, size - 1),
                           dense.shape[:-1] + index.shape[-1:])
  picked = jnp.take_along_axis(trees.widen(dense), index, -1)
  return jnp.where(inside, picked, 0)


def _scatter(one_hot, dense):
  """Add the rows of `dense` where the ones stand: [n, z, size, b]."""
  def one(index, rows):
    zeros = jnp.zeros((one_hot.size, rows.shape[-1]),
                      trees.wide_dtype(rows.dtype))
    # Rows out of range are dropped; -1 would mean the last row.
    index = jnp.where(index < 0, one_hot.size, index)
    return zeros.at[index].add(trees.widen(rows), mode='drop')

  return jax.vmap(jax.vmap(one))(one_hot.index, dense)
