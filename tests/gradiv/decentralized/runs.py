"""Runs on a quadratic per worker, for the tests of decentralized training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology
from tests import helpers

RNG = np.random.default_rng(29)
N = 6
CURVATURES = RNG.uniform(0.5, 1.5, (N, 1))
CENTERS = RNG.normal(size=(N, 3))
# The minimum of the mean of the losses h_i ‖x − c_i‖²/2.
OPTIMUM = (CURVATURES * CENTERS).sum(0) / CURVATURES.sum()
# Directed, with columns that sum to 1 and rows that do not.
DIGRAPH = np.eye(N) + np.roll(np.eye(N), 1, 0)
DIGRAPH[3, 0] = DIGRAPH[0, 2] = 1
DIGRAPH /= DIGRAPH.sum(0)
W = topology.ring(N)
LAZY = topology.lazy(W)
RATE = 0.2
START = np.broadcast_to([0.5, -1.0, 2.0], (N, 3))


def gradient(x):
  """Compute the gradients of all workers, each at its own parameters."""
  return CURVATURES * (x - CENTERS)


def train(tx, steps, backend='vmap', axis_name='workers', start=None,
          dtype=None, centers=CENTERS, curvatures=CURVATURES, **kwargs):
  """Train from `start`, or zero; return params and state of all workers."""
  dtype = dtype or (jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)
  start = np.zeros_like(centers) if start is None else start

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
    *(jnp.asarray(x, dtype) for x in (centers, curvatures, start)))
  return jax.tree.map(helpers.raw, end)


def chain(rate, last, **sgd):
  """Put a mixing step behind SGD."""
  return optax.chain(optax.sgd(rate, **sgd), last)


def assert_recursion(tx, expected, steps):
  """Compare a run from START with a recursion in NumPy; return its state."""
  with helpers.double_precision():
    x, state = train(tx, steps, start=START)
  np.testing.assert_allclose(x, expected, 1e-10, 1e-10)
  return state


# Name, and (rate, axis name) -> chain.
EXACT = (
  ('exact_diffusion', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_exact_diffusion(LAZY, axis))),
  ('extra', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_extra(W, axis))),
  ('gradient_tracking', lambda rate, axis='workers': optax.chain(
    decentralized.mix_by_gradient_tracking(W, axis), optax.sgd(rate),
    gradiv.mix_by_gossip(W, axis))),
  ('push_diging', lambda rate, axis='workers': optax.chain(
    decentralized.mix_by_gradient_tracking(DIGRAPH, axis), optax.sgd(rate),
    decentralized.mix_by_push_sum(DIGRAPH, axis))),
  ('relay_tree', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_relay(topology.binary_tree(N), axis))),
  ('relay_chain', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_relay(topology.chain(N), axis))),
)
BIASED = (
  ('quasi_global', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_quasi_global_momentum(W, axis, nesterov=True))),
  ('decentlam', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_decentlam(W, axis))),
  ('choco', lambda rate, axis='workers': chain(rate, decentralized.mix_by_choco(
    W, axis, gradiv.keep_top_k(0.5), consensus_step=0.4))),
  ('push_sum', lambda rate, axis='workers': chain(
    rate, decentralized.mix_by_push_sum(DIGRAPH, axis))),
  ('diloco', lambda rate, axis='workers': chain(rate, gradiv.diloco(
    4, axis, num_fragments=2, delay=1, blend=0.5))),
)
# One chain per transformation.
ALL = (*EXACT[:5], *BIASED)
