"""How far each part of each example's gradient is scaled down."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import groups as groups_lib

Aux = collections.namedtuple('Aux', ['values', 'grad_norms', 'aux'])


@dataclasses.dataclass(frozen=True)
class Clip:
  """The clipping that `clipped_grad` was asked for.

  Attributes:
    norm: C, or a tree of them.
    to_unit: Whether to divide by C.
    normalize_by: What the sum is divided by.
    nan_safe: Whether to leave out examples whose norm is not finite.
    grid_scale: Whole numbers per C, or None.
  """

  norm: Any
  to_unit: bool
  normalize_by: float
  nan_safe: bool
  grid_scale: int | None

  def __post_init__(self):
    if isinstance(self.normalize_by, (int, float)) and self.normalize_by <= 0:
      raise ValueError(f'normalize_by={self.normalize_by}: must be > 0')
    for c in jax.tree.leaves(self.norm):
      if isinstance(c, (int, float, np.floating)) and not c >= 0:
        raise ValueError(f'l2_clip_norm={self.norm}: must not be negative')
    if self.grid_scale is not None and (
        self.to_unit or self.normalize_by != 1 or not self.is_one):
      raise ValueError(
        f'grid_scale={self.grid_scale}: must be None with '
        'rescale_to_unit_norm, with normalize_by, or with a tree of norms')

  @property
  def is_one(self) -> bool:
    """Whether the whole gradient is clipped as one."""
    return jax.tree.structure(self.norm) == jax.tree.structure(0)

  def norm_bound(self) -> Any:
    """Return the largest norm of one example's part of the sum."""
    if self.grid_scale is not None:
      return float(self.grid_scale)
    norms = jax.tree.leaves(self.norm)
    largest = (math.sqrt(len(norms)) if self.to_unit
               else sum(c**2 for c in norms)**.5)
    return largest / self.normalize_by

  def groups_of(self, params: Any) -> Callable | None:
    """Return the groups of leaves that are clipped together, by path."""
    return None if self.is_one else self._grouping(params)

  def weights(
    self, params: Any, norms: jax.Array, padding: jax.Array
  ) -> jax.Array:
    """Compute the weight of each example, and of each group: as `norms`."""
    limits = jnp.asarray(self._limits(params), jnp.float32)
    scale = self.scale(norms, limits[..., None])
    skip = self.skip(norms.reshape(-1, norms.shape[-1]), padding)
    keep = jnp.broadcast_to(~skip[None], (norms.size // len(skip), len(skip)))
    return jnp.where(keep.reshape(norms.shape), scale, 0) / self.normalize_by

  def scale(self, norms: jax.Array, limits: Any) -> jax.Array:
    """Compute by how much a gradient of each norm is scaled down."""
    limits = jnp.maximum(limits, 0)
    some = jnp.where(norms > 0, norms, 1)
    scale = jnp.where(norms > 0, jnp.minimum(1, limits / some), 1)
    if self.to_unit:
      scale = jnp.where(
        limits > 0, scale / jnp.where(limits > 0, limits, 1), 1 / some)
    # A gradient whose norm is not finite spoils the sum, unless it is skipped.
    return jnp.where(jnp.isfinite(norms), scale, jnp.nan)

  def skip(self, norms: jax.Array, padding: jax.Array) -> jax.Array:
    """Return which examples count as zero, for norms [groups, n]."""
    if not self.nan_safe:
      return padding
    return padding | ~jnp.isfinite(norms).all(0)

  def norms_as_tree(self, params: Any, norms: jax.Array) -> Any:
    """Return norms, [n] or [groups, n], as a tree like that of the limits."""
    if self.is_one:
      return norms
    index = {int(name): row for row, name in enumerate(
      groups_lib.group_names(params, self._grouping(params)))}
    leaves, treedef = jax.tree.flatten(self.norm)
    # A limit for no leaf at all has a norm of zero.
    zero = jnp.zeros(norms.shape[1:], norms.dtype)
    return treedef.unflatten(
      norms[index[i]] if i in index else zero for i in range(len(leaves)))

  def _grouping(self, params: Any) -> Callable:
    """Name the group of each leaf by the number of its limit."""
    leaves, treedef = jax.tree.flatten(self.norm)
    # Of equal width, as groups are in the order of their names.
    numbered = treedef.unflatten(f'{i:06}' for i in range(len(leaves)))
    try:
      spread = jax.tree.map(
        lambda name, part: jax.tree.map(lambda _: name, part), numbered,
        params)
    except ValueError as error:
      raise ValueError(f'l2_clip_norm={self.norm}: must be a number, or a '
                       f'prefix of the gradient: {error}') from error
    names = {jax.tree_util.keystr(path): name for path, name
             in jax.tree_util.tree_leaves_with_path(spread)}
    return lambda path: names[jax.tree_util.keystr(path)]

  def _limits(self, params):
    """Return C, or the C of each group in order."""
    if self.is_one:
      return self.norm
    leaves = jax.tree.leaves(self.norm)
    names = groups_lib.group_names(params, self._grouping(params))
    return jnp.stack([jnp.asarray(leaves[int(name)], jnp.float32)
                      for name in names])
