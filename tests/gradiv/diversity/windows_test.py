"""Windows keep what they promise: simulated, with known truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from gradiv.diversity import windows
from gradiv.diversity.estimates import Estimate

WORKERS = 16
DIMS = 10
STEPS = 3000
RUNS = 300
LOOKS = slice(20, None, 37)


def draw_scale(kind, key, shape):
  """Draw the norms of gradients, in units of their root mean square."""
  if kind == 't3':
    return jnp.sqrt(.5 / jax.random.gamma(key, 1.5, shape))
  if kind == 'lognormal':
    return jnp.exp(jax.random.normal(key, shape) - 1)
  return jnp.ones(shape)


def draw(kind, key):
  """Draw gradients without a mean: ε̄₁, ‖ε̄‖² − D/n and D, with E D = 1."""
  keys = jax.random.split(key)
  noise = jax.random.normal(keys[0], (RUNS, WORKERS, DIMS)) / jnp.sqrt(DIMS)
  noise *= draw_scale(kind, keys[1], (RUNS, WORKERS, 1))
  mean = noise.mean(1)
  variance = jnp.sum((noise - mean[:, None])**2, (1, 2)) / (WORKERS - 1)
  return mean[:, 0], jnp.sum(mean**2, 1) - variance / WORKERS, variance


def course(first, last, decades, jitter):
  """Lay out exact G [STEPS, RUNS] and S: B_simple goes from first to last.

  S falls by some decades, fast at first; the logarithm of G moves about its
  course from step to step, as the noise of SGD moves the parameters.
  """
  root = np.sqrt(np.arange(STEPS) / STEPS)[:, None]
  variance = np.tile(10.**(-decades * root), RUNS)
  rng = np.random.default_rng(0)
  drift = np.zeros((STEPS, RUNS))
  for t in range(1, STEPS):
    drift[t] = .8 * drift[t - 1] + .6 * rng.normal(size=RUNS)
  signal = variance / (first * (last / first)**root) * np.exp(
    jitter * drift - jitter**2 / 2)
  return np.float32(signal), np.float32(variance)


@functools.partial(jax.jit, static_argnames='kind')
def follow(signal, variance, kind):
  """Track all runs; return Known and the truths [STEPS, RUNS, windows]."""
  update, read = jax.vmap(windows.update), jax.vmap(windows.read)

  def step(carry, at):
    state, truths = carry
    key, g, s = at
    along, square, spread = draw(kind, key)
    sample = Estimate(
      g + 2 * jnp.sqrt(g * s) * along + s * square, s * spread)
    new = update(state, sample)
    exact = jnp.stack([g, g + s], -1) / jax.vmap(windows.scale)(state)[:, None]
    truths = jnp.where(
      (new.totals[:, -1, 0] > state.totals[:, -1, 0])[:, None, None],
      truths * windows._DECAY[:, None] + exact[:, None], truths)
    truth = truths[..., 0] / truths[..., 1]
    return (new, truths), (read(new), truth, jnp.round(new.totals[..., 0]))

  keys = jax.random.split(jax.random.key(1), STEPS)
  state = jax.tree.map(
    lambda x: jnp.zeros((RUNS, *x.shape), x.dtype), windows.init())
  zeros = jnp.zeros((RUNS, len(windows.LENGTHS), 2))
  return jax.lax.scan(step, (state, zeros), (keys, signal, variance))[1]


def simulate(kind, *numbers):
  """Return Known [STEPS, RUNS] with the truth of what it is about."""
  known, truths, lengths = jax.tree.map(
    np.asarray, follow(*course(*numbers), kind))
  longest = len(windows.LENGTHS) - 1
  chosen = np.where(
    known.window > 0, np.argmax(lengths == known.window[..., None], -1),
    longest)
  return known, np.take_along_axis(truths, chosen[..., None], -1)[..., 0]


def shares(kind, *numbers):
  """Summarize a simulation."""
  known, truth = simulate(kind, *numbers)
  look = lambda x: x[LOOKS]
  is_known = look(known.window > 0)
  covers = look((known.least <= truth) & (truth <= known.most))[is_known]
  holds = look(known.batch_size_at_least * truth <= 1 + 1e-6)
  return {
    'known': is_known.mean(), 'covers': covers.mean(),
    'too_large': look(truth < known.least)[is_known].mean(),
    'holds': holds.mean(), 'holds_alone': holds[~is_known].mean(),
    **predictions(known)}


def predictions(known):
  """Compare the predicted step of first knowing with the one that it took."""
  ever = (known.window > 0).any(0)
  took = np.argmax(known.window > 0, 0) + 1.
  at = np.arange(1, STEPS + 1)[:, None]
  predicted = at + known.steps_until_known
  valid = (at < took) & ever & np.isfinite(predicted) & (at >= 20)
  ratio = (predicted / took)[valid]
  return {'median': np.median(ratio), 'within': np.mean(
    (ratio > .5) & (ratio < 2))}


if __name__ == '__main__':
  absltest.main()
