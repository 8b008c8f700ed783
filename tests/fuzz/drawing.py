"""Draws uses of a transformation: arguments, trees, dtypes, workers."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from gradiv import topology
from tests.contract import drive, row as row_lib

DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
CONTENTS = ('plain', 'equal', 'zero', 'huge', 'one_nan')
Pair = collections.namedtuple('Pair', 'left right')

NUMBERS = (0.0, -0.0, 0.5, 1.0, 2.0, 1e-12, 1 - 1e-7, 1e30, -1.0, -1e-12,
           float('nan'), float('inf'), -float('inf'), '0.5', None, 1j, True,
           (0.5,), 'a', np.float64(0.5), jnp.float32(0.5), np.ones(2))
COUNTS = (0, 1, 2, 3, 7, 8, 9, 1000, -1, 1.0, 1.5, float('nan'), '2', None,
          True, np.int64(2), jnp.int32(2))
# In place of trees, keys, matrices, names, functions and layouts.
OTHERS = (None, 3, -1, 0.5, 'nonsense', '', float('nan'), np.ones(3),
          np.full((8, 8), np.nan), np.ones((2, 3)), {})


@dataclasses.dataclass(frozen=True)
class Use:
  """One use of a row's transformation.

  Attributes:
    row: With the arguments that were drawn.
    changed: Names of those that are not the table's.
    workers: How many there are.
    backend: Who maps them.
    dtype: Of all leaves.
    tree: Shapes of a gradient, at its leaves.
    content: A kind of `drive.gradients`.
  """

  row: row_lib.Row
  changed: tuple[str, ...]
  workers: int
  backend: str
  dtype: str
  tree: Any
  content: str

  def __repr__(self):
    drawn = {name: (self.row.options | self.row.numbers)[name]
             for name in self.changed}
    return (f'Use({self.row.name}, {drawn}, {self.workers} workers, '
            f'{self.backend}, {self.dtype}, {self.tree}, {self.content})')

  @property
  def params(self) -> Any:
    """Parameters of the tree."""
    return jax.tree.map(lambda x: jnp.ones(x.shape, self.dtype), self.tree)

  @property
  def grads(self) -> Any:
    """A gradient of each worker [workers, ...], drawn by nothing but the use.
    """
    rng = np.random.default_rng(0)
    draw = lambda x: drive.CHANGES[self.content](
      rng.normal(0.3, 1, (self.workers, *x.shape)))
    with np.errstate(over='ignore'):
      return jax.tree.map(lambda x: jnp.asarray(draw(x), self.dtype), self.tree)


def trees() -> st.SearchStrategy[Any]:
  """Draw trees of shapes: empty ones, scalars, nothing, zero-size leaves."""
  leaf = st.sampled_from([
    jax.ShapeDtypeStruct(shape, jnp.float32)
    for shape in ((), (1,), (3,), (2, 3), (0,), (2, 0), (1, 2, 2))])
  return st.recursive(
    st.one_of(leaf, leaf, st.none()), lambda inner: st.one_of(
      st.dictionaries(st.sampled_from('abc'), inner, max_size=3),
      st.lists(inner, max_size=2).map(tuple), st.lists(inner, max_size=2),
      st.builds(Pair, inner, inner)), max_leaves=4
  ).map(lambda tree: {} if tree is None else tree)


@st.composite
def uses(draw, row: row_lib.Row) -> Use:
  """Draw a use of a row."""
  workers = draw(st.sampled_from((8, 8, 1, 2, 3, 4, 5, 6, 7, 9)))
  row = resized(row, workers) if draw(st.booleans()) else row
  names = sorted(row.options | row.numbers)
  chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)
                ) if names and draw(st.booleans()) else []
  new = {name: draw(st.sampled_from(_pool(row, name))) for name in chosen}
  return Use(
    changed(row, new), tuple(chosen), workers,
    draw(st.sampled_from(('vmap', 'vmap', 'shard_map'))),
    draw(st.sampled_from(DTYPES)), draw(trees()),
    draw(st.sampled_from(CONTENTS)))


def one_argument(row: row_lib.Row) -> Iterator[Use]:
  """Yield a plain use of a row for each value of each argument."""
  tree = {'a': jax.ShapeDtypeStruct((3,), jnp.float32),
          'b': jax.ShapeDtypeStruct((), jnp.float32)}
  for name in sorted(row.options | row.numbers):
    for value in _pool(row, name):
      yield Use(changed(row, {name: value}), (name,), 8, 'vmap', 'float32',
                tree, 'plain')


def changed(row: row_lib.Row, new: dict[str, Any]) -> row_lib.Row:
  """Give a row other arguments."""
  among = lambda old: old | {k: x for k, x in new.items() if k in old}
  return dataclasses.replace(
    row, options=among(row.options), numbers=among(row.numbers))


def _pool(row, name):
  if name in row.numbers:
    # Also two numbers that are right.
    return (*NUMBERS, np.full(2, row.numbers[name]))
  is_count = type(row.options[name]) in (int, bool)
  return COUNTS if is_count else OTHERS


def resized(row: row_lib.Row, workers: int) -> row_lib.Row:
  """Give a row the arguments that fit another number of workers."""
  sized = {
    'num_workers': workers,
    'mixing_matrix': topology.lazy(topology.ring(workers)),
    'tree': topology.chain(workers),
    'staleness': tuple(range(workers))}
  is_of_size = lambda name: name != 'staleness' or isinstance(
    row.options[name], tuple)
  return dataclasses.replace(row, options=row.options | {
    name: sized[name] for name in row.options
    if name in sized and is_of_size(name)})
