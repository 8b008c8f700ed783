"""Runs on quadratics of each worker's own, for the tests of gossip."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from gradiv.decentralized import topology
from tests import helpers

RNG = np.random.default_rng(29)
N = 6
CURVATURES = RNG.uniform(0.5, 1.5, (N, 1))
CENTRES = RNG.normal(size=(N, 3))
# Where the mean of the losses h_i ‖x − c_i‖²/2 is least.
OPTIMUM = (CURVATURES * CENTRES).sum(0) / CURVATURES.sum()
# Directed, with columns that add up to 1 and rows that do not.
DIGRAPH = np.eye(N) + np.roll(np.eye(N), 1, 0)
DIGRAPH[3, 0] = DIGRAPH[0, 2] = 1
DIGRAPH /= DIGRAPH.sum(0)


def gradient(x):
  """Of all workers' losses, each at its own parameters, in NumPy."""
  return CURVATURES * (x - CENTRES)


def train(tx, steps, backend='vmap', axis_name='workers', start=None,
          dtype=None, centres=CENTRES, curvatures=CURVATURES, **kwargs):
  """Train from `start`, or zero; returns params and state of all workers."""
  dtype = dtype or (jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)
  start = np.zeros_like(centres) if start is None else start

  def run(c, h, x):
    x = {'a': x[:1], 'b': x[1:]}
    c = {'a': c[:1], 'b': c[1:]}

    def step(carry, _):
      x, state = carry
      grads = jax.tree.map(lambda x, c: h * (x - c), x, c)
      updates, state = tx.update(grads, state, x)
      return (optax.apply_updates(x, updates), state), None

    x, state = jax.lax.scan(step, (x, tx.init(x)), None, length=steps)[0]
    return jnp.concatenate([x['a'], x['b']]), state

  end = gradiv.map_workers(run, axis_name, backend=backend, **kwargs)(
    *(jnp.asarray(x, dtype) for x in (centres, curvatures, start)))
  return jax.tree.map(helpers.raw, end)


def chain(rate, last, **sgd):
  """SGD with a mixing step behind it."""
  return optax.chain(optax.sgd(rate, **sgd), last)


# Along which the transformations mix; a test patches it.
AXIS = 'workers'
W = topology.ring(N)
LAZY = topology.lazy(W)
RATE = 0.2
START = np.broadcast_to([0.5, -1.0, 2.0], (N, 3))
TRACKED = lambda rate: optax.chain(
  gradiv.mix_by_gradient_tracking(W, AXIS), optax.sgd(rate),
  gradiv.mix_by_gossip(W, AXIS))
EXACT = (
  ('exact_diffusion', lambda rate: chain(
    rate, gradiv.mix_by_exact_diffusion(LAZY, AXIS))),
  ('extra', lambda rate: chain(rate, gradiv.mix_by_extra(W, AXIS))),
  ('gradient_tracking', TRACKED),
  ('push_diging', lambda rate: optax.chain(
    gradiv.mix_by_gradient_tracking(DIGRAPH, AXIS), optax.sgd(rate),
    gradiv.mix_by_push_sum(DIGRAPH, AXIS))),
  ('relay_chain', lambda rate: chain(
    rate, gradiv.mix_by_relay(topology.chain(N), AXIS))),
  ('relay_tree', lambda rate: chain(
    rate, gradiv.mix_by_relay(topology.binary_tree(N), AXIS))),
)
BIASED = (
  ('quasi_global', lambda rate: chain(
    rate, gradiv.mix_by_quasi_global_momentum(W, AXIS, nesterov=True))),
  ('decentlam', lambda rate: chain(
    rate, gradiv.mix_by_decentlam(W, AXIS))),
  ('choco', lambda rate: chain(rate, gradiv.mix_by_choco(
    W, AXIS, gradiv.keep_top_k(0.5), consensus_step=0.4))),
  ('push_sum', lambda rate: chain(
    rate, gradiv.mix_by_push_sum(DIGRAPH, AXIS))),
  ('diloco', lambda rate: chain(rate, gradiv.diloco(
    4, AXIS, num_fragments=2, delay=1, blend=0.5))),
)
