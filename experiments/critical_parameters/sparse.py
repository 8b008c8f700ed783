"""Delayed SGD on sparse logistic regression.

An example has k nonzero entries ±1/√k among d, one in each of k blocks of
coordinates. Each coordinate is used equally often, so that Δ = k/d exactly. The
label is the probability under known weights x*, which therefore solve every
example at once: σ² = 0, and ‖x − x*‖² falls exponentially at any stable rate.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gradiv
from experiments.critical_parameters import search
from gradiv import scaling

NUM_EXAMPLES = 1024
# The size of the logit of an example with one nonzero entry.
LOGIT = 1.5
RATES = tuple(2.0**(k / 2) for k in range(-8, 9))


def features(dimension: int, support: int, seed: int) -> np.ndarray:
  """Draw examples [NUM_EXAMPLES, d] with k nonzero entries."""
  rng, block = np.random.default_rng(seed), dimension // support
  rows = np.zeros((NUM_EXAMPLES, dimension), np.float32)
  for i in range(support):
    places = rng.permutation(np.arange(NUM_EXAMPLES) % block) + i * block
    rows[np.arange(NUM_EXAMPLES), places] = rng.choice(
      [-1, 1], NUM_EXAMPLES) / support**0.5
  return rows


def solution(dimension: int, seed: int) -> np.ndarray:
  """Draw the weights x* [d], equal up to their signs."""
  signs = np.random.default_rng([seed, 1]).choice([-1, 1], dimension)
  return (LOGIT * signs).astype(np.float32)


def measure_noise(a: np.ndarray, x: np.ndarray) -> tuple[float, float]:
  """Bound M over points on the line from 0 to x*, and measure Δ."""
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  a, x = a.astype(float), x.astype(float)
  points = []
  for share in np.linspace(0, 0.95, 12):
    g = (sigmoid(share * a @ x) - sigmoid(a @ x))[:, None] * a
    mean = g.mean(0)
    points.append((mean @ mean, np.sum((g - mean)**2, 1).mean()))
  noise = scaling.bound_noise(gradiv.Estimate(*np.array(points).T))
  return noise.relative, scaling.gradient_density(a)


def steps_to(
  a: np.ndarray, solved: np.ndarray, staleness: int, *, target: float,
  num_runs: int, together: int, max_steps: int, max_staleness: int, seed: int,
) -> np.ndarray:
  """Count steps until ‖x − x*‖² ≤ target ‖x*‖²: [rates, runs].

  From x = 0, with one example a step, in the mean of `together` trajectories.
  The target must be kept for τ steps; infinite where it never is.
  """
  rows = np.random.default_rng([seed, 2]).integers(
    len(a), size=(search.padded(max_steps), num_runs * together))
  first = _until(
    jnp.float32(RATES), jnp.asarray(a), jnp.asarray(solved),
    jnp.asarray(rows, jnp.int32), jnp.int32(staleness), jnp.float32(target),
    depth=max_staleness + 1, together=together)
  return search.finite(first, max_steps)


@functools.partial(jax.jit, static_argnames=('depth', 'together'))
def _until(rates, a, solved, rows, staleness, target, *, depth, together):
  """Count steps to the target: [rates, runs]."""
  lanes = rows.shape[1]
  shape = len(rates), lanes // together
  goal = target * jnp.sum(solved**2)
  start = jnp.zeros((len(rates), lanes, len(solved)))
  past = jnp.zeros((depth, len(rates), lanes))

  def advance(t, state):
    x, past = state
    now, then = a[rows[t]], a[rows[jnp.maximum(t - staleness, 0)]]
    logit = jnp.sum(x * now[None], -1)
    wanted = jnp.sum(now * solved[None], -1)[None]
    slope = jax.nn.sigmoid(logit) - jax.nn.sigmoid(wanted)
    past = lax.dynamic_update_index_in_dim(past, slope, t % depth, 0)
    # Until the first gradient is due, the slope there is zero.
    due = past[(t - staleness) % depth]
    x = x - (rates[:, None] * due)[..., None] * then[None]
    off = jnp.sum((x - solved[None, None])**2, -1).reshape(*shape, together)
    return (x, past), off.mean(-1) <= goal

  return search.first_steps(
    advance, (start, past), shape, staleness, len(rows))
