"""Which way each leaf goes, and what it costs on top of a plain step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gradiv.per_example._engine import (
  leaves as leaves_lib,
  registry,
  trace as trace_lib,
)


class Row(NamedTuple):
  """What `explain` says of one leaf.

  Attributes:
    name: Its path.
    shape: Of the parameter.
    rule: How its gradient is seen: products by the primitives that make them,
      'example', 'mixture', 'common' or 'fallback'.
    method: How norms are had: 'outer', 'gram' and 'direct', or 'written out'.
    flops: For all examples, on top of a plain step.
    num_bytes: Written and read, on top of it.
    reason: Why not from products, where that is so.
  """

  name: str
  shape: tuple[int, ...]
  rule: str
  method: str
  flops: int
  num_bytes: int
  reason: str


def explain(
  loss_fn: Callable, params: Any, batch: Any, *, has_aux: bool = False
) -> list[Row]:
  """Print, for each leaf, the rule that `example_moments` follows, and why.

  From the program alone; nothing is computed. Floating-point operations and
  bytes are those on top of a plain step, for the whole batch.

  >>> import jax.numpy as jnp
  >>> loss = lambda w, x: jnp.sum(jnp.tanh(x @ w))
  >>> rows = explain(loss, jnp.ones((512, 256)), jnp.ones((8, 16, 512)))
  leaf   shape    rule         method  extra FLOPs  extra bytes  why
         512x256  dot_general  gram      3,145,728       32,768
  of 131,072 parameters, 0.0 % fall back
  >>> rows[0].method
  'gram'

  Args:
    loss_fn: As of `example_moments`.
    params: Its parameters, or `jax.ShapeDtypeStruct` in place of arrays.
    batch: The examples, or their shapes; how many there are decides on the
      methods.
    has_aux: As there.

  Returns:
    What is printed, a row for each leaf with a gradient.

  Raises:
    ValueError: As `example_moments`.
  """
  trace = trace_lib.Trace(loss_fn, has_aux, params, batch)
  rows = [_row(trace, path, leaf)
          for path, leaf in zip(trace.paths, trace.leaves)]
  print(_table(rows))
  return rows


def _row(trace, path, leaf):
  n, width = leaf.num_examples, leaf.dtype.itemsize
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  if leaf.kind == 'products':
    names = [term.name for like in leaf.like_terms for term in like.terms]
    ways = [like.way for like in leaf.like_terms]
    return Row(name, leaf.shape, ' + '.join(dict.fromkeys(names)),
               ' + '.join(dict.fromkeys(way.name for way in ways)),
               sum(way.flops for way in ways),
               width * sum(way.numbers for way in ways), '')
  if leaf.kind == 'common':
    return Row(name, leaf.shape, 'common', 'once', 0, 0, '')
  flops = 2 * n * leaf.size
  if leaf.kind == 'fallback':
    flops += n * _flops(trace.program, leaf)
  return Row(name, leaf.shape, leaf.kind, 'written out', flops,
             2 * width * n * leaf.size, leaf.reason)


def _flops(program, leaf: leaves_lib.Leaf) -> int:
  """Count roughly what it takes to come to a leaf, for one example."""
  _, used = program.needed([leaf.value])
  return sum(registry.flops(program, i) for i in used)


def _table(rows):
  heads = ('leaf', 'shape', 'rule', 'method', 'extra FLOPs', 'extra bytes',
           'why')
  cells = [heads] + [
    (row.name, 'x'.join(map(str, row.shape)) or 'scalar', row.rule, row.method,
     f'{row.flops:,}', f'{row.num_bytes:,}', row.reason) for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
  lines = ['  '.join(
    cell.rjust(width) if head.startswith('extra') else cell.ljust(width)
    for head, cell, width in zip(heads, line, widths)).rstrip()
    for line in cells]
  total = sum(math.prod(row.shape) for row in rows)
  fallen = sum(math.prod(row.shape) for row in rows if row.rule == 'fallback')
  lines.append(f'of {total:,} parameters, {100 * fallen / max(total, 1):.1f} % '
               'fall back')
  return '\n'.join(lines)
