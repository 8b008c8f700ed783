"""Gradients and compiled programs for the tests of exchanges."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from experiments.cost import collectives as lib

RNG = np.random.default_rng(5)


def stacked(tree):
  """Stack all leaves of all workers into one float64 matrix, [n, D]."""
  return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1)
                         for x in jax.tree.leaves(tree)], 1)


def sample(workers, dtype=np.float32, scale=1.0):
  """Leaves that n does not divide, a scalar, an empty one, and a large one."""
  draw = lambda *shape: jnp.asarray(
    scale * RNG.normal(0.3, 1, (workers, *shape)), dtype)
  return {'a': {'kernel': draw(5, 3), 'bias': draw(3)}, 'scale': draw(),
          'none': None, 'empty': draw(0), 'large': draw(7, 9901)}


def gram_error(actual, rows):
  """Return the largest error, relative to ‖g_i‖‖g_j‖."""
  norms = np.linalg.norm(rows, axis=1)
  return np.max(np.abs(actual - rows @ rows.T) / np.outer(norms, norms))


def compiled(tx, params, workers=8):
  """Compile one step for a number of devices."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:workers]), ('workers',))
  step = jax.jit(jax.shard_map(
    lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=mesh,
    in_specs=(P('workers'), P()), out_specs=P(), check_vma=False))
  grads = jax.tree.map(
    lambda p: jax.ShapeDtypeStruct((workers, *p.shape), p.dtype), params)
  return step.lower(grads, tx.init(params)).compile()


def collectives(program):
  return lib.collectives(program.as_text())
