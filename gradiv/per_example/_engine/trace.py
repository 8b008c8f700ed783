"""A loss of one example, traced, and run over a batch without its last step."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradiv.per_example._engine import (
  cut as cut_lib,
  leaves as leaves_lib,
  program,
  terms,
)

_COLLECTIVES = frozenset({
  'psum', 'psum2', 'psum_invariant', 'psum_invariant2', 'pmax', 'pmin',
  'all_gather', 'all_gather_invariant', 'all_to_all', 'ppermute',
  'reduce_scatter', 'pgather', 'ragged_all_to_all'})
# Their bodies name axes that they bind: a layer may lie on several devices.
_OWN_AXES = frozenset({'shard_map', 'xla_pmap'})


class Data(NamedTuple):
  """What the prefix of a program leaves for its leaves to finish.

  Attributes:
    batched: Values of each example: [n, ...].
    common: Values that do not depend on the example.
    examples: The batch.
    mask: Which examples count: [n].
    again: (values, examples) -> those values, computed anew.
  """

  batched: terms.Data
  common: terms.Data
  examples: Any
  mask: jax.Array
  again: Callable[..., list[jax.Array]]


class Trace:
  """The gradient of a loss at one example, cut leaf by leaf.

  Attributes:
    leaves: What to do about each leaf that has a gradient.
    paths: Theirs, in the tree of the parameters.
    num_examples: n.
    loss_dtype: Of the loss.
    batched: The values that they need for each example; with `only_sums`,
      what is made of them inside of loops.
    common: Those that they need once.
  """

  def __init__(
    self, loss_fn: Callable, has_aux: bool, params: Any, batch: Any,
    only_sums: bool = False,
  ):
    self.num_examples = count_examples(batch)
    _check_params(params)
    leaves, self._treedef = jax.tree.flatten(params)
    # Of NumPy's float64, where jax computes in float32; shapes stay shapes.
    self._params = [x if isinstance(x, jax.ShapeDtypeStruct)
                    else jnp.asarray(x) for x in leaves]
    self._floating = [jnp.issubdtype(x.dtype, jnp.floating)
                      for x in self._params]
    self.paths = [
      path for (path, _), floating in zip(
        jax.tree_util.tree_leaves_with_path(params), self._floating)
      if floating]
    example = jax.eval_shape(
      lambda batch: jax.tree.map(lambda x: x[0], batch), batch)
    flat, example_def = jax.tree.flatten(example)

    def run(params, flat):
      return _value_and_grad(loss_fn, has_aux, self._treedef, self._floating,
                             params, example_def.unflatten(flat))

    try:
      closed, shapes = jax.make_jaxpr(run, return_shape=True)(
        self._params, flat)
    except NameError as error:
      if 'unbound axis' not in str(error):
        raise
      raise ValueError(
        f'loss_fn mixes examples by a collective ({error}): it must be a '
        'function of one example alone') from error
    _check_separate(closed.jaxpr)
    self.program = program.Program(closed)
    self._aux_def = jax.tree.structure(shapes[1])
    sources = self.program.inputs[len(self._params):]
    cutter = cut_lib.Cutter(self.program, sources)
    num_grads = sum(self._floating)
    outs = self.program.outputs
    cut = len(outs) - num_grads
    self._results, grads = outs[:cut], outs[cut:]
    self.loss_dtype = outs[0].aval.dtype
    num_parameters = sum(np.size(x) for x in self._params)
    self.leaves = [leaves_lib.Leaf(cutter, value, self.num_examples,
                                   num_parameters) for value in grads]
    unique = lambda atoms: list(dict.fromkeys(atoms))
    self.batched = unique(
      x for leaf in self.leaves for x in (
        [leaf.in_loop] if only_sums and leaf.in_loop else leaf.batched))
    self.common = unique(x for leaf in self.leaves for x in leaf.common)

  def run(
    self, batch: Any, mask: jax.Array | None
  ) -> tuple[jax.Array, list[jax.Array], Data]:
    """Run all but the last products: losses [n], what is auxiliary, data."""
    rows = [jnp.asarray(x) for x in jax.tree.leaves(batch)]
    common = self.program.run(
      [*self._params, *[None] * len(rows)], self.common)
    values = self._run_all(
      self._params, [*self._results, *self.batched], rows, effects=True)
    losses, *aux = values[:len(self._results)]
    batched = values[len(self._results):]
    if mask is None:
      mask = jnp.ones(self.num_examples, bool)
    else:
      batched = [leaves_lib.keep_some(x, mask) for x in batched]
    return losses, aux, self.pack((batched, common, rows, mask, self._params))

  def pack(self, arrays: tuple) -> Data:
    """Make `Data` of arrays."""
    batched, common, rows, mask, fixed = arrays
    return Data(
      dict(zip(self.batched, batched)), dict(zip(self.common, common)), rows,
      mask, functools.partial(self._run_all, fixed))

  def unpack(self, data: Data) -> tuple:
    """Make arrays of `Data`, which may leave `jax.jit`."""
    return ([data.batched[x] for x in self.batched],
            [data.common[x] for x in self.common], data.examples, data.mask,
            self._params)

  def _run_all(self, fixed, wanted, rows, effects=False):
    run = lambda row: self.program.run([*fixed, *row], wanted, effects)
    made = lambda x: isinstance(x, program.Inner) and isinstance(
      x.atom, program.Made)
    # What is made in a loop is a sum over the examples, and squares of each.
    axes = [(None, 0) if made(x) else 0 for x in wanted]
    return jax.vmap(run, out_axes=axes)(rows)

  def unflatten(self, grads: list[jax.Array]) -> Any:
    """Make a tree like the parameters; integers get zeros of dtype float0."""
    values: Iterator[jax.Array] = iter(grads)
    return self._treedef.unflatten([
      next(values) if floating else np.zeros(np.shape(x), jax.dtypes.float0)
      for x, floating in zip(self._params, self._floating)])

  def unflatten_aux(self, flat: list[jax.Array]) -> Any:
    """Make the auxiliary output of its leaves."""
    return self._aux_def.unflatten(flat)


def _value_and_grad(loss_fn, has_aux, treedef, floating, params, example):
  """Differentiate one example's loss, checked, in the leaves that float."""
  def loss_of(moving):
    values = iter(moving)
    full = [next(values) if moves else x for x, moves in zip(params, floating)]
    result = loss_fn(treedef.unflatten(full), example)
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
      raise ValueError('has_aux=True: loss_fn must return a pair, the loss and '
                       f'what is auxiliary, and returned {type(result)}')
    loss, aux = result if has_aux else (result, ())
    _check_scalar(loss, has_aux)
    return loss, aux

  moving = [x for x, moves in zip(params, floating) if moves]
  (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(moving)
  return loss, aux, grads


def _check_scalar(loss, has_aux):
  """Raise ValueError unless a loss is one real number."""
  try:
    found = jax.typeof(loss)
    fits = found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)
  except TypeError:
    found, fits = type(loss), False
  if not fits:
    pair = isinstance(loss, tuple) and not has_aux
    raise ValueError(
      f'loss_fn returned {found}: must be one floating number, of shape (), '
      'for one example' + pair * '; or a pair, with has_aux=True')


def _check_params(params):
  """Raise ValueError on a leaf of complex numbers."""
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.complexfloating):
      raise ValueError(
        f'params{jax.tree_util.keystr(path)} has dtype {dtype}: must be real; '
        'keep the real and the imaginary part as two leaves')


def count_examples(batch: Any) -> int:
  """Tell how many examples a batch holds; all leaves must agree."""
  rows = {jax.tree_util.keystr(path): jnp.shape(x) for path, x
          in jax.tree_util.tree_leaves_with_path(batch)}
  sizes = {shape[:1] for shape in rows.values()}
  if len(sizes) != 1 or not all(map(all, sizes)) or sizes == {()}:
    raise ValueError(
      f'batch with leaves of shapes {rows}: must hold at least one example, '
      'along the first axis of each leaf, of the same size in all')
  return sizes.pop()[0]


def _check_separate(jaxpr):
  """Raise ValueError where the loss talks to other examples or workers."""
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name in _COLLECTIVES:
      axes = params.get('axes', params.get('axis_name'))
      raise ValueError(
        f'loss_fn mixes examples: {name} over {axes}. It must be a '
        'function of one example alone; name the axis of the workers as '
        'axis_name=, and leave batch statistics out')
    if name in _OWN_AXES:
      continue
    for inner in jax.tree.leaves(list(params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        _check_separate(inner)
