"""The gradient of one example's loss, traced, cut, and run over a batch."""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import compat
from gradiv.per_example._engine import (
  cut,
  homogeneity,
  inside_loop,
  leaves as leaves_of,
  loss_checks,
  one_example,
  parameters,
  program,
  squares,
  terms,
  values as values_of,
  written_rows as rows_of,
)


class Data(NamedTuple):
  """The values from which the leaves compute their statistics.

  Attributes:
    batched: Values for each example: [n, ...].
    common: Values that do not depend on the example.
    examples: The leaves of the batch.
    mask: Which examples count: [n].
    products: Gradients of all examples that are kept, by their value in the
      program: [n, z, a, b].
    recompute: (values, examples) -> these values, by running the program again
      on some examples. Used by leaves that fall back, whose gradients would
      not fit for all examples at once.
  """

  batched: terms.Data
  common: terms.Data
  examples: Any
  mask: jax.Array
  products: dict[values_of.Value, jax.Array]
  recompute: Callable[..., list[jax.Array]]


class Trace:
  """The gradient of a loss at one example, cut parameter by parameter.

  Attributes:
    program: The program that computes loss, auxiliary output and gradient.
    leaves: The parameters that have a gradient.
    paths: Their paths in the tree of parameters.
    num_examples: n.
    loss_dtype: Dtype of the loss.
    batched: The values that the leaves need for each example; with
      `only_sums`, sums that are computed within loops instead of factors.
    common: The values that they need once.
    fixed: The inputs that all examples share: the parameters, and traced
      values that the loss closes over.
    scale: What is left to multiply gradients by, or None.
  """

  def __init__(
    self, loss_fn: Callable, has_aux: bool, params: Any, batch: Any,
    only_sums: bool = False, scale: jax.Array | None = None,
  ):
    """Trace a loss.

    Args:
      loss_fn: Function (params, example) -> loss or, with `has_aux`, a pair.
      has_aux: Whether it returns (loss, aux).
      params: The parameters.
      batch: The examples; their shapes are enough.
      only_sums: Whether sums over the examples, and norms, will be all.
      scale: Number to multiply gradients by, or None.
    """
    self.num_examples = one_example.count_examples(batch)
    self._parameters = parameters.Parameters(params)
    self.paths = self._parameters.paths
    values = self._parameters.parts(params)
    # What the backward pass starts from: an input, if it is to be scaled.
    self._seed = [] if scale is None else [jnp.ones_like(scale)]
    closed, shapes = one_example.traced(
      loss_fn, has_aux, self._parameters, values, batch, self._seed)
    self.scale = scale
    # In few bits, 1/n would be off for all examples alike, or too small.
    # Nor if a rule of the backward pass is not linear in what it is handed.
    if scale is not None and loss_checks.is_wide(
        closed.jaxpr) and homogeneity.holds(
          closed, len(closed.jaxpr.outvars) - len(self.paths),
          len(closed.jaxpr.invars) - 1):
      self._seed, self.scale = [scale], None
    self._model_axes = loss_checks.separate(
      closed.jaxpr, values, jax.tree.leaves(batch))
    self.program = program.Program(closed)
    inputs = self.program.inputs
    sources = inputs[len(values):len(inputs) - len(self._seed)]
    self.fixed: list[Any] | None = [*values, *self._captured(len(values))]
    self._aux_def = jax.tree.structure(shapes[1])
    outs = self.program.outputs
    num_results = len(outs) - len(self.paths)
    self._results, grads = outs[:num_results], outs[num_results:]
    self.loss_dtype = outs[0].aval.dtype
    cutter = cut.Cutter(self.program, sources)
    num_parameters = sum(x.size for x in values)
    self.leaves = [leaves_of.Leaf(cutter, value, self.num_examples,
                                  num_parameters) for value in grads]
    unique = lambda atoms: list(dict.fromkeys(atoms))
    self.batched = unique(
      x for leaf in self.leaves for x in (
        [leaf.in_loop] if only_sums and leaf.in_loop else leaf.batched))
    self.common = unique(x for leaf in self.leaves for x in leaf.common)

  def _captured(self, count):
    """Make traced values that the loss closes over inputs of the program.

    They are then handed on like the parameters, so that `combine` may leave
    the `jax.jit` that made it.
    """
    found = dict.fromkeys(
      x for equation in self.program.equations for x in equation.ins
      if isinstance(x.constant, jax.core.Tracer))
    self.program.inputs[count:count] = found
    values = [x.constant for x in found]
    for x in found:
      x.constant = None
    return values

  def without_values(self) -> 'Trace':
    """Return the trace without the values that it was made with.

    It may then leave `jax.jit`: `run` needs ``fixed``.
    """
    other = copy.copy(self)
    other.fixed = None
    return other

  def over_shards(self, leaf: leaves_of.Leaf, x: jax.Array) -> jax.Array:
    """Add up squares [n, ...] of the shards of a parameter, on several devices.

    Inside `jax.shard_map`, a loss may be computed by several devices together,
    each with a part of the parameters, and with collectives between them.
    """
    axes = compat.varying_axes(leaf.value.aval) & self._model_axes
    return lax.psum(squares.total(x), tuple(sorted(axes))) if axes else x

  @property
  def is_sharded(self) -> bool:
    """Whether several devices may hold parts of a parameter."""
    return bool(self._model_axes)

  def run(
    self, batch: Any, mask: jax.Array | None, *, effects: bool = True,
    fixed: list | None = None,
  ) -> tuple[jax.Array, list[jax.Array], Data]:
    """Run the program up to the cuts.

    Args:
      batch: The examples.
      mask: Which of them count, or None for all.
      effects: Whether to run equations with side effects, such as prints.
      fixed: Values to take in place of the attribute, after the program that
        made the trace has ended.

    Returns:
      The losses [n], the leaves of the auxiliary output, and `Data`.
    """
    rows = [jnp.asarray(x) for x in jax.tree.leaves(batch)]
    constants: Any = self.fixed if fixed is None else fixed
    common = self.program.run(
      [*constants, *[None] * len(rows), *self._seed], self.common)
    values = self._run_all(
      constants, [*self._results, *self.batched], rows, effects)
    losses, *aux = values[:len(self._results)]
    batched = values[len(self._results):]
    if mask is None:
      mask = jnp.ones(self.num_examples, bool)
    else:
      batched = [rows_of.keep_some(x, mask) for x in batched]
    return losses, aux, self.pack((batched, common, rows, mask, {}, constants))

  def pack(self, arrays: tuple) -> Data:
    """Make `Data` of the arrays that `unpack` returns."""
    batched, common, rows, mask, products, fixed = arrays
    return Data(
      dict(zip(self.batched, batched)), dict(zip(self.common, common)), rows,
      mask, {self.leaves[i].value: x for i, x in products.items()},
      functools.partial(self._run_all, fixed))

  def unpack(self, data: Data) -> tuple:
    """Return the arrays of `Data`, a pytree that may leave `jax.jit`."""
    return ([data.batched[x] for x in self.batched],
            [data.common[x] for x in self.common], data.examples, data.mask,
            {i: data.products[leaf.value] for i, leaf in enumerate(self.leaves)
             if leaf.value in data.products}, self.fixed)

  def _run_all(self, fixed, wanted, rows, effects=False):
    """Run the program of one example over all rows."""
    run = lambda row: self.program.run(
      [*fixed, *row, *self._seed], wanted, effects)
    # Sums from inside of loops have no example axis; their squares do.
    axes = [(None, 0) if inside_loop.is_requested(x) else 0 for x in wanted]
    return jax.vmap(run, out_axes=axes)(rows)

  def unflatten(self, grads: list[jax.Array]) -> Any:
    """Make a tree like the parameters; integers get zeros of dtype float0."""
    return self._parameters.gradient(grads)

  def unflatten_aux(self, flat: list[jax.Array]) -> Any:
    """Make the auxiliary output of its leaves."""
    return self._aux_def.unflatten(flat)
