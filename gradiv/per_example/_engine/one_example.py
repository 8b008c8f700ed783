"""The loss of one example and its gradient, traced; and how many there are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import loss_checks, promotion
from gradiv.per_example._engine.parameters import Parameters


def traced(
  loss_fn: Callable, has_aux: bool, parameters: Parameters, values: list,
  batch: Any, seed: list,
) -> tuple[Any, Any]:
  """Trace (params, example) -> (loss, aux, grads) on one example.

  Args:
    loss_fn: The loss.
    has_aux: Whether it has auxiliary output.
    parameters: The tree of its parameters.
    values: The parameters.
    batch: The examples; their shapes are enough.
    seed: A number to multiply the gradient by, or nothing.

  Returns:
    The jaxpr, and the shapes of its results.
  """
  example = jax.eval_shape(
    lambda batch: jax.tree.map(lambda x: x[0], batch), batch)
  flat, example_def = jax.tree.flatten(example)

  def run(values, flat, *scale):
    return _value_and_grad(loss_fn, has_aux, parameters, values,
                           example_def.unflatten(flat), *scale)

  try:
    with promotion.of_user():
      return jax.make_jaxpr(run, return_shape=True)(
        values, flat, *seed)
  except NameError as error:
    if 'unbound axis' not in str(error):
      raise
    raise ValueError(
      f'loss_fn mixes examples by a collective ({error}): it must be a '
      'function of one example alone') from error


def _value_and_grad(
  loss_fn, has_aux, parameters, values, example, scale=None
):
  """Differentiate one example's loss in the floating-point parameters.

  The gradient is multiplied by the scale, the loss is not.
  """
  moves = [jnp.issubdtype(x.dtype, jnp.floating) for x in values]

  def loss_of(moving):
    moving = iter(moving)
    result = loss_fn(parameters.tree(
      [next(moving) if x_moves else x for x, x_moves in zip(values, moves)]),
      example)
    loss, aux = loss_checks.pair(result) if has_aux else (result, ())
    loss_checks.scalar(loss, has_aux)
    return loss, aux

  moving = [x for x, x_moves in zip(values, moves) if x_moves]
  loss, pull_back, aux = jax.vjp(loss_of, moving, has_aux=True)
  seed = jnp.ones_like(loss)
  (grads,) = pull_back(seed if scale is None else
                       seed * scale.astype(loss.dtype))
  return loss, aux, grads


def count_examples(batch: Any) -> int:
  """Return the number of examples in a batch; all leaves must agree."""
  rows = {jax.tree_util.keystr(path): jnp.shape(x) for path, x
          in jax.tree_util.tree_leaves_with_path(batch)}
  sizes = {shape[:1] for shape in rows.values()}
  if not all(isinstance(s, int) for shape in rows.values() for s in shape):
    raise ValueError(
      f'batch with leaves of shapes {rows}: sizes must be numbers, not '
      'symbols, because they decide how gradients are measured')
  if len(sizes) != 1 or not all(map(all, sizes)) or sizes == {()}:
    raise ValueError(
      f'batch with leaves of shapes {rows}: must hold at least one example, '
      'along the first axis of each leaf, and as many in all leaves')
  return sizes.pop()[0]
