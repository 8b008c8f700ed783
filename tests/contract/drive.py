"""Runs of the table's rows: one step of all workers, compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gradiv
from tests.contract import table

RNG = np.random.default_rng(4)


def params(dtype=jnp.float32):
  """Parameters with layers, a scalar, and places that hold nothing."""
  return {'layer': {'kernel': jnp.ones((5, 3), dtype),
                    'bias': jnp.zeros(3, dtype)},
          'none': None, 'empty': (), 'scale': jnp.ones((), dtype)}


def _number(g):
  """Return the number of the worker, to multiply g [workers, ...] by."""
  return np.arange(len(g)).reshape(-1, *(1,) * (g.ndim - 1))


# What makes gradients [workers, ...] hard.
CHANGES = {
  'plain': lambda g: g,
  'zero': lambda g: 0 * g,
  'equal': lambda g: np.broadcast_to(g[:1], g.shape),
  # Not evenly spaced: rules that select would meet ties.
  'rank_one': lambda g: g[:1] * _number(g)**1.1,
  'tiny': lambda g: 1e-10 * g,
  'huge': lambda g: 1e10 * g,
  'one_nan': lambda g: np.where(_number(g) == len(g) // 2, np.nan, g)}


def gradients(kind='plain', workers=table.WORKERS, dtype=jnp.float32):
  """Draw one gradient per worker; `kind` is one of CHANGES."""
  draw = lambda x: RNG.normal(0.3, 1, (workers, *x.shape))
  tree = jax.tree.map(draw, params())
  return jax.tree.map(lambda g: jnp.asarray(CHANGES[kind](g), dtype), tree)


def gradients_of(row, **kwargs):
  """Draw gradients as the row takes them."""
  grads = gradients(**kwargs)
  return jax.tree.map(lambda g: g[0], grads) if row.kind == 'alone' else grads


def step_of(row, tx, axis='workers', kind=None):
  """Return one worker's step, which hands an unknown argument on."""
  is_before = (kind or row.kind) == 'before'

  def step(grads, state, params):
    updates, state = optax.with_extra_args_support(tx).update(
      grads, state, params, unknown=1, **row.needs(params))
    moves = lax.pmean(updates, axis) if is_before else updates
    return updates, state, optax.apply_updates(params, moves)

  return step


def axes_of(row, kind=None):
  """Say what has a leading axis of workers: (in_axes, out_axes)."""
  kind = kind or row.kind
  own = 0 if kind == 'own' else None
  return (0, own, own), (None if kind == 'wire' else 0, own, own)


def start(row, tx, tree=None, workers=table.WORKERS):
  """Return the state and the parameters before the first step."""
  tree = params() if tree is None else tree
  begin = (tx.init(tree), jax.tree.map(jnp.copy, tree))
  return gradiv.replicate(begin, workers) if row.kind == 'own' else begin


@functools.cache
def program(row, axis='workers', backend='vmap'):
  """Compile one step of all workers once, for all inputs of a shape.

  On 'vmap' it takes its state and parameters as donations.

  Returns:
    The transformation, a list that grows whenever the step is traced, and the
    program.
  """
  tx, traces = row.make(axis), []
  step = step_of(row, tx, axis)

  def traced(*args):
    traces.append(1)
    return step(*args)

  if row.kind == 'alone':
    return tx, traces, jax.jit(traced, donate_argnums=(1, 2))
  in_axes, out_axes = axes_of(row)
  mapped = gradiv.map_workers(
    traced, axis, in_axes=in_axes, out_axes=out_axes, backend=backend)
  if backend == 'vmap':
    mapped = jax.jit(mapped, donate_argnums=(1, 2))
  return tx, traces, mapped


def update(row, grads, axis='workers', backend='vmap'):
  """Run the first step; return the updates and the state."""
  tx, _, mapped = program(row, axis, backend)
  return mapped(grads, *start(row, tx))[:2]


def trace(row, tx, tree, kind=None):
  """Trace one step from `init` on, and compile nothing.

  Args:
    row: Says what the transformation needs, and where it stands.
    tx: The row's transformation, or one around it.
    tree: Parameters.
    kind: In place of that of the row, where `tx` keeps a state of each
      worker's own.

  Returns:
    The shapes of: the state at first; the updates of one worker; the state
    afterwards.
  """
  kind = kind or row.kind
  step = step_of(row, tx, kind=kind)
  state = jax.eval_shape(tx.init, tree)
  if kind == 'alone':
    updates, after, _ = jax.eval_shape(step, tree, state, tree)
    return state, updates, after
  in_axes, out_axes = axes_of(row, kind)
  rows = lambda x: jax.ShapeDtypeStruct(
    (table.WORKERS, *x.shape), x.dtype, weak_type=x.weak_type)
  abstract = jax.eval_shape(lambda: tree)
  each = lambda t, axis: t if axis is None else jax.tree.map(rows, t)
  args = map(each, (abstract, state, abstract), in_axes)
  updates, after, _ = jax.eval_shape(
    jax.vmap(step, in_axes, out_axes, axis_name='workers',
             axis_size=table.WORKERS), *args)
  one = lambda t, axis: t if axis is None else jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape[1:], x.dtype, weak_type=x.weak_type), t)
  return state, one(updates, out_axes[0]), one(after, out_axes[1])


def specs(tree):
  """Describe a tree: its structure, shapes, dtypes and weak types."""
  leaves, structure = jax.tree.flatten(tree)
  is_weak = lambda x: bool(getattr(x, 'weak_type', False))
  return structure, [(x.shape, x.dtype, is_weak(x)) for x in leaves]
