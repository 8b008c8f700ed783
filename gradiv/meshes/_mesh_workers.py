"""Which axes of a mesh count workers, and how many there are."""

import contextlib
import dataclasses
import math

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec as P

from gradiv import workers
from gradiv._common import checks


@dataclasses.dataclass(frozen=True)
class MeshWorkers:
  """The workers on a mesh: one on each position of some axes, or several.

  Attributes:
    mesh: The mesh.
    names: Axis names of the workers, outermost first.
    axes: Those of the names that are axes of the mesh. A last name that is
      none counts the workers of one device.
    count: Number of workers.
  """

  mesh: Mesh
  names: tuple[str, ...]
  axes: tuple[str, ...]
  count: int

  @classmethod
  def of(
    cls, mesh: Mesh, axis: workers.AxisName, num_workers: int | None
  ) -> 'MeshWorkers':
    """Check the arguments of a function that works on a mesh.

    Raises:
      ValueError: If an argument is invalid, naming it.
    """
    if not isinstance(mesh, Mesh):
      raise ValueError(f'mesh={mesh!r}: must be a jax.sharding.Mesh')
    names = workers.names_of(axis, 'axis')
    axes = tuple(name for name in names if name in mesh.shape)
    if not axes or axes != names[:len(axes)] or len(names) > len(axes) + 1:
      raise ValueError(
        f'axis={axis!r}: must be axes of the mesh, {mesh.axis_names}, and '
        'possibly one last name for the workers of one device')
    size = math.prod(mesh.shape[name] for name in axes)
    if num_workers is None:
      if len(names) > len(axes):
        raise ValueError(f'num_workers=None: must be given, as {names[-1]!r} '
                         f'of axis={axis!r} is no axis of the mesh')
      return cls(mesh, names, axes, size)
    checks.count('num_workers', num_workers, 1)
    fits = num_workers % size == 0 and (
      len(names) > len(axes) or num_workers == size)
    if not fits:
      raise ValueError(
        f'num_workers={num_workers}: must be {size}, the size of axis={axis!r}'
        ', or a multiple of it if a last name that is no axis of the mesh '
        'counts the workers of one device')
    return cls(mesh, names, axes, num_workers)

  @property
  def per_device(self) -> int:
    """Number of workers on each position of the axes of the mesh."""
    return self.count // math.prod(self.mesh.shape[x] for x in self.axes)

  @property
  def is_explicit(self) -> bool:
    """Whether the mesh has an axis of type Explicit."""
    return AxisType.Explicit in self.mesh.axis_types

  @property
  def as_axes(self) -> AbstractMesh:
    """The mesh with one axis for each name of the workers."""
    shape = dict(self.mesh.shape)
    if len(self.names) > len(self.axes):
      shape[self.names[-1]] = self.per_device
    return AbstractMesh(tuple(shape.values()), tuple(shape),
                        axis_types=(AxisType.Auto,) * len(shape))

  def lead(self, is_private: bool, spec: P) -> P:
    """Put the axis of workers in front of the spec of what is private."""
    return P(self.axes, *spec) if is_private else spec


def no_context_mesh() -> contextlib.AbstractContextManager:
  """Leave the mesh of `jax.set_mesh`, in order to trace with another one."""
  if jax.sharding.get_abstract_mesh().empty:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def is_spec(x: object) -> bool:
  """Return whether `x` is a PartitionSpec: a leaf in a tree of them."""
  return isinstance(x, P)


def axes_of(spec: P) -> frozenset[str]:
  """Return the axes that a PartitionSpec names."""
  return frozenset(jax.tree.leaves(tuple(spec)))
