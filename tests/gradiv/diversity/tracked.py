"""Gradients of several workers, and a run of what tracks them."""

import jax
import jax.numpy as jnp
import numpy as np

import gradiv

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}
RNG = np.random.default_rng(3)


def gradients(steps, workers, dtype=np.float32):
  draw = lambda x: RNG.normal(0.5, 1, (workers, steps, *x.shape)).astype(dtype)
  return jax.tree.map(draw, PARAMS)


def run(tx, grads, axis='workers', backend='vmap', state=None, params=PARAMS):
  """Scan the updates of all steps inside the workers' program."""
  def fn(grads, state):
    def step(state, g):
      updates, state = tx.update(g, state)
      return state, updates
    return jax.lax.scan(step, state, grads)

  mapped = gradiv.map_workers(fn, axis, in_axes=(0, None), out_axes=(None, 0),
                              backend=backend)
  return mapped(grads, tx.init(params) if state is None else state)
