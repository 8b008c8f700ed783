"""Explains how `example_moments` treats each parameter, and what that costs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gradiv.per_example import _arguments
from gradiv.per_example._engine import (
  leaves as leaves_lib,
  promotion,
  registry,
  trace as trace_lib,
)


class Row(NamedTuple):
  """The line of an `Explanation` about one parameter.

  Attributes:
    name: Path of the parameter.
    shape: Its shape.
    rule: How its gradient is computed. Names of primitives: as products of
      activations and errors, made by these. 'example': written out per
      example. 'contracted': products of a weight that is normalized. 'mixture':
      products behind other linear operations. 'common': the same for all
      examples. 'fallback': by `jax.vmap(jax.grad)`, in chunks.
    method: How the norms are computed: from the factors ('outer' for a single
      position, 'gram' for several), from the product, a few examples at a time
      ('direct'), from sums along the factors ('contracted'), from gradients
      written out ('written out'), or 'once'.
    flops: Floating-point operations on top of a plain gradient, for the batch.
    num_bytes: Bytes read and written on top of it.
    reason: Why the gradient is not computed from products; '' if it is.
  """

  name: str
  shape: tuple[int, ...]
  rule: str
  method: str
  flops: int
  num_bytes: int
  reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
  """How `example_moments` treats each parameter; prints as a table.

  Attributes:
    rows: One `Row` per parameter that has a gradient.
  """

  rows: tuple[Row, ...]

  @property
  def fallback_fraction(self) -> float:
    """Fraction of the parameters that fall back to `jax.vmap(jax.grad)`."""
    size = lambda rows: sum(math.prod(row.shape) for row in rows)
    fallen = [row for row in self.rows if row.rule == 'fallback']
    return size(fallen) / max(size(self.rows), 1)

  def __repr__(self) -> str:
    return _table(self)


@promotion.standard
def explain(
  loss_fn: Callable, params: Any, batch: Any, *args: Any, has_aux: bool = False
) -> Explanation:
  """Explain how `example_moments` treats each parameter, and what it costs.

  Use it if per-example statistics are slower than expected, or to check a new
  kind of layer. Nothing is computed: shapes are enough.

  >>> import jax.numpy as jnp
  >>> loss_fn = lambda w, x: jnp.sum(jnp.tanh(x @ w))
  >>> explain(loss_fn, jnp.ones((512, 256)), jnp.ones((8, 16, 512)))
  leaf   shape    rule         method  extra FLOPs  extra bytes  why
         512x256  dot_general  gram      3,145,728       32,768
  of 131,072 parameters, 0.0 % fall back

  The only parameter is a matrix product, and norms come from inner products of
  its factors, for 3 million operations more than a plain gradient.

  Args:
    loss_fn: Function ``loss_fn(params, example, *args)`` that returns the loss
      of one example, as in `example_moments`.
    params: Parameters; here and below, a `jax.ShapeDtypeStruct` may stand for
      an array.
    batch: Examples. Their number decides on the method.
    *args: Further arguments of `loss_fn`.
    has_aux: Whether `loss_fn` returns a pair (loss, aux).

  Returns:
    An object that prints as the table above, with a `Row` per parameter in
    ``rows``.
  """
  is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
  leaves, treedef = jax.tree.flatten(args)
  rows = []

  def look(shapes):
    shapes = iter(shapes)
    filled = treedef.unflatten(
      [next(shapes) if is_shape(x) else x for x in leaves])
    trace = trace_lib.Trace(
      _arguments.with_args(loss_fn, filled), has_aux, params, batch)
    rows.extend(_row(trace, path, leaf)
                for path, leaf in zip(trace.paths, trace.leaves))

  # Under `eval_shape`, so that shapes among the arguments become values.
  jax.eval_shape(look, [x for x in leaves if is_shape(x)])
  return Explanation(tuple(rows))


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
  if leaf.contracted:
    flops, numbers = leaf.contracted.cost(n)
    ways = [like.way for like in leaf.like_terms]
    return Row(name, leaf.shape, 'contracted', 'contracted',
               flops + sum(way.flops for way in ways),
               width * (numbers + sum(way.numbers for way in ways)),
               leaf.reason)
  flops = 2 * n * leaf.size
  if leaf.kind == 'fallback':
    flops += n * _flops(trace.program, leaf)
  return Row(name, leaf.shape, leaf.kind, 'written out', flops,
             2 * width * n * leaf.size, leaf.reason)


def _flops(program, leaf: leaves_lib.Leaf) -> int:
  """Estimate the operations behind the gradient of a leaf, per example."""
  _, used = program.needed([leaf.value])
  return sum(registry.flops(program, i) for i in used)


def _table(explanation):
  heads = ('leaf', 'shape', 'rule', 'method', 'extra FLOPs', 'extra bytes',
           'why')
  cells = [heads] + [
    (row.name, 'x'.join(map(str, row.shape)) or 'scalar', row.rule, row.method,
     f'{row.flops:,}', f'{row.num_bytes:,}', row.reason)
    for row in explanation.rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
  lines = ['  '.join(
    cell.rjust(width) if head.startswith('extra') else cell.ljust(width)
    for head, cell, width in zip(heads, line, widths)).rstrip()
    for line in cells]
  total = sum(math.prod(row.shape) for row in explanation.rows)
  lines.append(f'of {total:,} parameters, '
               f'{100 * explanation.fallback_fraction:.1f} % fall back')
  return '\n'.join(lines)
