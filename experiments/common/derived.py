"""Parts that are computed from the records of others, and kept for reports.

Windows of tracked moments, exact theory and what `gradiv.advise` says take JAX,
or seconds. A run keeps them beside its records; a report reads them. They are
computed anew, and silently, where the records or the code have changed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments import versions
from experiments.engine import signals

_PACKAGES = ('numpy', 'jax', 'jaxlib')
# What a file holds besides the arrays: what these were computed from, which are
# coordinates, and behind the name of each its dimensions.
_SOURCE, _COORDS, _DIMS = '[source]', '[coords]', '[dims]'


@dataclasses.dataclass(frozen=True)
class Derived:
  """Labeled arrays that follow from earlier parts, from flags and from code.

  Attributes:
    name: Of its file below the workdir, without `.npz`.
    function: 'package.module:function' of what computes them, imported then. It
      returns an `xr.Dataset` of numbers or text.
    arguments: Of the function.
    inputs: The parts among whose results these are.
    defined_by: The flags that the arrays depend on.
    code: Files and folders below the root of this repository that they depend
      on, besides that of the function.
  """

  name: str
  function: str
  arguments: Sequence[Any]
  inputs: Sequence[Any] = ()
  defined_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  code: Sequence[str] = ()

  @property
  def size(self) -> int:
    """There are no steps to count."""
    return 0

  def check(self) -> None:
    """There are no shapes to check."""

  def plan(self) -> None:
    """Nothing is known before it is computed."""

  def missing(self, workdir: pathlib.Path,
              allow_changed: Collection[str] = ()) -> str:
    """Say what is missing: the file, or one from the same records and code."""
    del allow_changed
    path = self._path(workdir)
    if not path.exists():
      return f'{path} is missing'
    with np.load(path) as file:
      stored = str(file[_SOURCE]) if _SOURCE in file else ''
    return '' if stored == self._source(workdir) else f'{path} is of other data'

  def run(self, workdir: pathlib.Path, stop: signals.Stop | None = None,
          allow_changed: Collection[str] = (), watch: Any = None) -> None:
    """Compute the arrays, and keep them where they are not."""
    del stop, watch
    if self.missing(workdir, allow_changed):
      from experiments.engine import processes  # here: to read needs no JAX
      found = pkgutil.resolve_name(self.function)(*self.arguments)
      processes.by_first(self._write, workdir, found)

  def read(self, workdir: pathlib.Path) -> xr.Dataset:
    """Read the arrays, to the last bit what was computed."""
    with np.load(self._path(workdir)) as file:
      found = {name: (file[f'{name}{_DIMS}'].tolist(), file[name])
               for name in file if f'{name}{_DIMS}' in file}
      return xr.Dataset(found).set_coords(file[_COORDS].tolist())

  def digest(self, workdir: pathlib.Path) -> str:
    """Name what `read` reads."""
    return self._source(workdir)

  def _write(self, workdir, found):
    arrays = {_SOURCE: np.array(self._source(workdir)),
              _COORDS: np.array(list(found.coords), str)}
    for name, x in found.variables.items():
      # Text of any length: an array of objects would be pickled.
      arrays[name] = x.values.astype(str) if x.dtype.kind == 'O' else x.values
      arrays[f'{name}{_DIMS}'] = np.array(x.dims, str)
    path = self._path(workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.partial')
    with partial.open('wb') as file:
      np.savez(file, **arrays)
    os.replace(partial, path)

  def _path(self, workdir):
    return workdir / f'{self.name}.npz'

  def _source(self, workdir):
    """Hash all that the arrays depend on."""
    module, _, _ = self.function.partition(':')
    code = versions.sources(f'{module.replace(".", "/")}.py', *self.code)
    text = json.dumps([
      self.defined_by, [part.digest(workdir) for part in self.inputs], code,
      versions.packages(_PACKAGES)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
