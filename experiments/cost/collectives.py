"""What a program sends, read off the program and not off a clock."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, PartitionSpec as P

from gradiv._common import early_sums

# What each of n workers sends, on a ring, for each element of the operand; of
# the result for an all-gather and a reduce-scatter.
_SENT = {
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'all-to-all': lambda n: (n - 1) / n,
  'all-gather': lambda n: (n - 1) / n,
  'reduce-scatter': lambda n: n - 1,
  'collective-permute': lambda n: 1,
}


_PRIMITIVES = {
  'psum': 'all-reduce', 'psum_invariant': 'all-reduce',
  'all_to_all': 'all-to-all', 'all_gather': 'all-gather',
  'reduce_scatter': 'reduce-scatter', 'ppermute': 'collective-permute'}


class Collective(NamedTuple):
  """A collective of a program: its name and how many elements it moves.

  Those of the result; for all but an all-gather and a reduce-scatter, the
  operand has as many.
  """

  name: str
  size: int


def collectives(text: str) -> list[Collective]:
  """List the collectives in the HLO text of a program.

  Those that run only if a gradient is not finite are left out, here and below.

  >>> collectives('%a = f32[2,3]{1,0} all-reduce(%b), channel_id=1')
  [Collective(name='all-reduce', size=6)]
  """
  return [Collective(name, sum(size for _, size in arrays))
          for name, arrays in _find(text)]


def bytes_sent(text: str, num_workers: int | None = None) -> float:
  """Count the bytes that each worker sends, on a ring of those that take part.

  >>> bytes_sent('%a = u8[8,6]{1,0} all-to-all(%b), channel_id=1', 8)
  42.0
  >>> bytes_sent('%a = u8[6]{0} all-reduce(%b), replica_groups={{0,1},{2,3}}')
  6.0
  >>> groups = "replica_groups=mesh['x'=4,'y'=2] {'y'}"
  >>> bytes_sent('%a = u8[6]{0} all-reduce(%b), ' + groups)
  6.0

  Args:
    text: The HLO text of a program.
    num_workers: How many take part in every collective. By default as many as
      a replica group of the collective names.
  """
  lines = text.splitlines()
  return sum(
    _SENT[name](num_workers or _group_size(line)) * width * size
    for line in lines for name, arrays in _find(line)
    for width, size in arrays)


def _group_size(line):
  """Read off how many devices take part in a collective."""
  listed = re.search(r'replica_groups=\{\{([0-9,]+)\}', line)
  if listed:
    return listed[1].count(',') + 1
  grid = re.search(r'replica_groups=\[[0-9]+,([0-9]+)\]', line)
  if grid:
    return int(grid[1])
  named = re.search(r'replica_groups=mesh\[(.*?)\] *\{(.*?)\}', line)
  if named:  # jaxlib 0.12
    sizes = dict(re.findall(r"'([^']+)'=([0-9]+)", named[1]))
    return math.prod(
      int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
  if ' collective-permute' in line:
    return 2  # sends its operand once
  raise ValueError(f'text={line!r}: names no replica groups')


def bytes_traced(
  fn: Callable, num_workers: int, *args: Any
) -> float:
  """Count the bytes that each worker of ``fn(*args)`` sends, on a ring.

  Traces for `num_workers` devices, none of which need exist. Collectives must
  name the axis 'workers'; the body of a loop counts once.

  >>> import jax.numpy as jnp
  >>> bytes_traced(lambda x: jax.lax.psum(x, 'workers'), 8, jnp.ones(10))
  70.0
  """
  mesh = AbstractMesh((num_workers,), ('workers',))
  mapped = jax.shard_map(fn, mesh=mesh, in_specs=P(), out_specs=P(),
                         check_vma=False)
  return _sent_by(jax.make_jaxpr(mapped)(*args).jaxpr, num_workers)


def _sent_by(jaxpr, n):
  total = 0.
  for equation in jaxpr.eqns:
    name = _PRIMITIVES.get(equation.primitive.name)
    stack = str(equation.source_info.name_stack)
    if name and early_sums.AGAIN not in stack:
      total += _SENT[name](n) * sum(
        x.aval.size * x.aval.dtype.itemsize for x in equation.outvars)
    for parameter in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        total += _sent_by(inner, n)
  return total


def _find(text):
  """List the collectives: the name, and (bytes each, how many) of arrays."""
  found = []
  for line in text.splitlines():
    match = re.search(rf' = (.*?) ({"|".join(_SENT)})(-start)?\(', line)
    if match and early_sums.AGAIN not in line:
      arrays = re.findall(r'([a-z]+)([0-9]*)[a-z0-9]*\[([0-9,]*)\]', match[1])
      if match[3] and match[2] != 'all-reduce' and match[2] != 'all-to-all':
        arrays = arrays[len(arrays) // 2:]  # the operands come first
      found.append((match[2], [
        (1 if kind == 'pred' else int(bits) / 8,
         math.prod(int(d) for d in shape.split(',') if d))
        for kind, bits, shape in arrays]))
  return found
