"""From a loss to what one step needs: its gradient and what it reports.

All forms of a loss (with or without scalars to record, with a state of the
model, in micro-batches, in a narrow type) become one function here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.engine.program import Program


class Gradient(NamedTuple):
  """The gradient of a worker in one step.

  Attributes:
    grads: What the optimizer takes.
    seen: {'batch_loss': the loss} and what else the loss returned to record.
    model_state: The new one; () where there is none.
  """

  grads: Any
  seen: dict[str, jax.Array]
  model_state: Any


def build(program: Program) -> Callable[..., Gradient]:
  """Build (data, lane, rows, state, key) -> Gradient for one worker and lane.

  Args:
    program: Whose loss or gradient it is.
  """
  whole = _custom(program) if program.gradient else _of_loss(program)
  return whole if program.accumulate == 1 else _accumulated(
    whole, program.accumulate)


def _custom(program):
  def gradient(data, lane, rows, state, key):
    value, grads = program.gradient(
      lane, state['params'], program.batch(data, lane, rows), key)
    return Gradient(grads, *_reported(value, program))

  return gradient


def _of_loss(program):
  def gradient(data, lane, rows, state, key):
    batch = _narrow(program.batch(data, lane, rows), program.compute_dtype)

    def loss(params):
      params = _narrow(params, program.compute_dtype)
      model = (state['model_state'],) if program.model_state else ()
      seen, model_state = _reported(
        program.loss(params, *model, batch, key), program)
      return seen['batch_loss'], (seen, model_state)

    (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(state['params'])
    return Gradient(grads, *aux)

  return gradient


def _reported(value, program):
  """Split what a loss returns into what to record and the model's state."""
  loss, aux = value if isinstance(value, tuple) else (value, {})
  aux = dict(aux)
  if program.model_state and 'model_state' not in aux:
    raise ValueError("the loss of a program with model_state must return (loss,"
                     " {'model_state': ...}); 'model_state' is missing")
  model_state = aux.pop('model_state') if program.model_state else ()
  if 'batch_loss' in aux:
    raise ValueError("'batch_loss' is the name of the loss itself: the loss "
                     'must not return another quantity of that name')
  if program.compute_dtype:
    loss, aux = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float32), (loss, aux))
  return {'batch_loss': loss, **aux}, model_state


def _narrow(tree, dtype):
  """Cast the float arrays of a tree; None leaves it as it is."""
  if dtype is None:
    return tree
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
    tree)


def _accumulated(gradient, count):
  """Average over `count` micro-batches, each of consecutive rows."""
  def split(x):
    if len(x) % count:
      raise ValueError(f'accumulate={count}: must divide the {len(x)} examples '
                       'that a worker has in a batch')
    return x.reshape(count, -1, *x.shape[1:])

  def accumulated(data, lane, rows, state, key):
    def one(i, rows, model_state):
      return gradient(data, lane, rows, state | {'model_state': model_state},
                      jax.random.fold_in(key, i))

    def add(carry, at):
      total, model_state = carry
      grads, seen, model_state = one(*at, model_state)
      return (jax.tree.map(jnp.add, total, (grads, seen)), model_state), None

    micro = jnp.arange(count), jax.tree.map(split, rows)
    model_state = state.get('model_state', ())
    shapes = jax.eval_shape(one, *jax.tree.map(lambda x: x[0], micro),
                            model_state)[:2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, model_state), _ = lax.scan(add, (zeros, model_state), micro)
    grads, seen = jax.tree.map(lambda x: x / count, total)
    return Gradient(grads, seen, model_state)

  return accumulated
