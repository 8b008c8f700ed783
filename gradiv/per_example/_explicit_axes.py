"""Batches along axes of type Explicit, where types say how arrays lie.

The engine traces the loss of one example, in which the axis of the batch does
not occur, and then joins examples in ways of its own. Under Explicit axes each
of its products would have to say how its result lies; the compiler finds that
by itself if the axes are of type Auto. So the axes are of that type within the
engine, and its results are laid out as those of a plain step: gradients as the
parameters, what there is of each example as the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P

from gradiv._common import trees


class Layouts(NamedTuple):
  """How results lie.

  Attributes:
    grads: As the parameters: a tree of PartitionSpecs.
    rows: With one row for each example in front.
    columns: With the examples along the second axis.
  """

  grads: Any
  rows: P
  columns: P


def run(
  fn: Callable, layouts: Callable[[Layouts], Any], params: Any, batch: Any,
  *args: Any,
) -> Any:
  """Call ``fn(params, batch, *args)``, with axes of type Auto within.

  Args:
    fn: The function. A `combine` of `_weighted_sums` may be its last result.
    layouts: Function that returns how its results lie, as a prefix tree.
    params: The parameters.
    batch: Leaves with an axis of examples in front. If they do not lie along
      Explicit axes, `fn` is just called.
    *args: Further arguments, arrays or not.
  """
  mesh, axes = _explicit(batch)
  if mesh is None:
    return fn(params, batch, *args)
  lie = Layouts(_specs_of(params), P(axes), P(None, axes))
  arrays, rebuild = trees.split_arrays((params, batch, args))
  functions = []

  def inside(arrays):
    params, batch, args = rebuild(arrays)
    *results, last = fn(params, batch, *args)
    if isinstance(last, jax.tree_util.Partial):
      functions.append(last.func)
      # The parameters are there outside already, laid out as they should be.
      (*held, fixed), = last.args
      last = tuple(held), fixed[len(jax.tree.leaves(params)):]
    return *results, last

  *results, last = _in_auto(inside, layouts(lie), mesh)(arrays)
  if functions:
    held, captured = last
    fixed = [*map(jnp.asarray, jax.tree.leaves(params)), *captured]
    last = jax.tree_util.Partial(
      _in_auto(functions[0], lie.grads, mesh), (*held, fixed))
  return *results, last


def _in_auto(fn: Callable, specs: Any, mesh: Any) -> Callable:
  """Let axes be of type Auto within a function of arrays."""
  def call(*args):
    with jax.sharding.use_abstract_mesh(mesh):
      return jax.sharding.auto_axes(fn, out_sharding=specs)(*args)

  def start(*args):
    if all(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args)):
      return call(*args)
    return jax.jit(call)(*args)  # an abstract mesh has no devices to run on

  return start


def _mesh_of(x: Any) -> Any:
  """Return the mesh along whose Explicit axes an array may lie, or None."""
  mesh = jax.typeof(x).sharding.mesh
  return mesh if AxisType.Explicit in mesh.axis_types else None


def _specs_of(tree: Any) -> Any:
  """Return how the leaves of a tree lie."""
  return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)


def _explicit(batch):
  """Return the mesh and the Explicit axes along which examples lie."""
  for x in jax.tree.leaves(batch):
    mesh = _mesh_of(x) if hasattr(x, 'dtype') else None
    if mesh is not None:
      axes = jax.typeof(x).sharding.spec[:1]
      return mesh, axes[0] if axes else None
  return None, None
