"""How the arms train: the graphs that mix, the chains, and where they look."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax import flatten_util

import gradiv
from experiments.decentralized.arms import Arm
from gradiv.decentralized import topology

TOPOLOGIES = {
  'random': topology.random_matching,
  'random_ring': topology.random_ring,
  'ring': lambda n, count: topology.ring(n),
  'two_neighbors': lambda n, count: topology.circulant(n, (1, 2, -1, -2)),
  'exponential': lambda n, count: topology.exponential(n),
  'complete': lambda n, count: topology.complete(n),
}


def mixing_matrices(config, graph: str, num_workers: int) -> np.ndarray:
  """Make W, or the sequence of them that is used in turn."""
  return TOPOLOGIES[graph](num_workers, config.num_matchings)


def contractions(config) -> xr.Dataset:
  """Compute the 'contraction' [graph] of each of the graphs."""
  graphs, n = list(config.topologies), config.num_workers
  return xr.Dataset({'contraction': ('graph', [
    contraction(mixing_matrices(config, graph, n)) for graph in graphs])},
    {'graph': graphs})


def contraction(w: np.ndarray) -> float:
  """Compute ρ² = ‖E WᵀW − 11ᵀ/n‖₂, what mixing leaves of a disagreement.

  >>> round(contraction(topology.ring(5)), 3)
  0.291
  """
  bank = topology.check(w)
  squares = np.einsum('tki,tkj->ij', bank, bank) / len(bank)
  return float(np.linalg.norm(squares - 1 / len(squares), 2))


def make_optimizer(
  config, arm: Arm, lane: dict, axis_name: gradiv.AxisName
) -> optax.GradientTransformation:
  """Build the chain of an arm; all share the warm-up and the cuts."""
  cuts = jnp.array([share * config.steps_of(arm.domain)
                    for share in config.rate_cuts])

  def rate(count):
    warm = jnp.minimum(1, (count + 1) / max(config.warmup_steps, 1))
    imposed = lane['ratio'][count] if arm.name == 'imposed' else 1
    return lane['rate'] * warm * imposed * 0.1**jnp.sum(count >= cuts)

  if arm.topology:
    bank = mixing_matrices(config, arm.topology, arm.num_workers)
    return optax.chain(optax.sgd(rate), mix_in_turn(bank, axis_name))
  optimizer = optax.lamb if arm.name == 'lamb' else optax.sgd
  return optax.chain(gradiv.aggregate_by_mean(axis_name), optimizer(rate))


def mix_in_turn(
  bank: np.ndarray, axis_name: gradiv.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Make a step of DPSGD, whose turn is that of the extra argument `step`.

  `gradiv.mix_by_gossip` counts by itself, once a lane; where lanes lie under
  `jax.vmap`, a switch by such a count would mix by every matrix and pick.
  """
  each = [gradiv.mix_by_gossip(w, axis_name, order='awc')
          for w in topology.check(bank)]

  def update_fn(updates, state, params=None, *, step, **extra_args):
    del extra_args
    return jax.lax.switch(step % len(each), [tx.update for tx in each],
                          updates, state, params)

  return optax.GradientTransformationExtraArgs(each[0].init, update_fn)


def place(config, arm: Arm, params, key: jax.Array):
  """Choose where this worker takes its gradient."""
  if arm.name != 'ssgd_noise':
    return params
  # One draw for all leaves: a draw for each takes XLA seconds to compile.
  flat, unravel = flatten_util.ravel_pytree(params)
  noise = jax.random.normal(key, flat.shape, flat.dtype)
  return unravel(flat + config.noise_stddev * noise)
