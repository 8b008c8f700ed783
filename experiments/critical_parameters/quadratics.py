"""Delayed mini-batch SGD on isotropic least squares.

  x_{t+1} = x_t − γ g(x_{t−τ}),   g(x) = (1/b) Σ a (aᵀx − e),

with a ~ N(0, I_d) and e ~ N(0, σ_e²): ∇f = x, M = d + 1 and σ² = σ_e² d.
Batches are not drawn example by example. With r = Ax − e and A = z x̂ᵀ + A⊥,
for a normal z of b numbers, g = (x̂ zᵀr + A⊥ᵀ r)/b, where A⊥ᵀ r is ‖r‖ times a
normal vector orthogonal to x̂; zᵀr and ‖r‖ take two χ² numbers and one normal
number. So a step costs O(d) for every batch size, and g has exactly the law of
the sum.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.critical_parameters import search

# Squares start at 1; below this they lose their digits in float32.
_TINY = 1e-30
# A run that falls below this, well above `_TINY`, was stable.
_GONE = 1e-24


class Cell(NamedTuple):
  """One setting, for all rates and runs.

  Attributes:
    dimension: d.
    label_noise: σ_e.
    batch_size: b.
    staleness: τ.
  """

  dimension: int
  label_noise: float
  batch_size: int
  staleness: int

  def slowness(self, sq_norm: float) -> float:
    """Compute τ + 1 + (M + σ²/ε)/b, to which steps should be proportional."""
    critical = self.dimension + 1 + (
      self.label_noise**2 * self.dimension / sq_norm)
    return self.staleness + 1 + critical / self.batch_size


def steps_to(
  cell: Cell, target: float, rates: tuple[float, ...], num_runs: int, *,
  together: int = 1, max_steps: int, max_staleness: int, seed: int,
  is_reversed: bool = False,
) -> np.ndarray:
  """Count steps until ‖x‖² ≤ target: [rates, runs], infinite where never.

  From ‖x_0‖ = 1. All rates see the same examples. The target must be kept for τ
  steps.

  Args:
    cell: The setting.
    target: ε.
    rates: γ.
    num_runs: Of each rate.
    together: How many trajectories' mean ‖x‖² makes one run.
    max_steps: After which a run counts as not converged.
    max_staleness: The largest τ of the cells that share a compiled program.
    seed: Of the examples.
    is_reversed: Whether to add coordinates in reverse order: the same runs,
      rounded otherwise.
  """
  draws = _draws(cell, num_runs * together, max_steps, seed)
  setting = _setting(cell, rates, max_staleness, seed, is_reversed)
  first = _until(jnp.float32(target), draws, together, **setting)
  return search.finite(first, max_steps)


def growth(
  cell: Cell, rates: tuple[float, ...], num_runs: int, *, num_steps: int,
  max_staleness: int, seed: int, is_reversed: bool = False,
) -> np.ndarray:
  """Measure how ln ‖x‖² grows over the last half of the steps: [rates, runs].

  Plus or minus infinity where it leaves the range of float32. Arguments are
  those of `steps_to`.
  """
  draws = _draws(cell, num_runs, num_steps, seed)
  half, whole = np.asarray(_halves(
    draws, **_setting(cell, rates, max_staleness, seed, is_reversed)), float)
  with np.errstate(divide='ignore', invalid='ignore'):
    change = np.log(whole) - np.log(half)
  gone = ~np.isfinite(half) | ~np.isfinite(whole)
  return np.where(gone, np.inf, np.where(whole < _GONE, -np.inf, change))


# What shapes a program; see `_setting`.
_SHAPES = ('dimension', 'depth', 'is_reversed')


def _setting(cell, rates, max_staleness, seed, is_reversed):
  """Split a cell into what shapes its program, and arrays."""
  return dict(
    dimension=cell.dimension, depth=max_staleness + 1, is_reversed=is_reversed,
    rates=jnp.float32(rates), staleness=jnp.int32(cell.staleness),
    noise=jnp.float32(cell.label_noise),
    batch_size=jnp.float32(cell.batch_size), key=jax.random.key(seed))


def _draws(cell, num_runs, num_steps, seed):
  """Draw the χ² and normal numbers of every step: [steps, runs] each."""
  rng = np.random.default_rng([seed, cell.batch_size])
  shape, b = (search.padded(num_steps), num_runs), cell.batch_size
  rest = rng.chisquare(b - 1, shape) if b > 1 else np.zeros(shape)
  return tuple(jnp.asarray(x, jnp.float32) for x in (
    rng.chisquare(b, shape), rng.normal(size=shape), rest))


def gradient(x, draw, noise, batch_size, normal):
  """Draw g(x) of a batch: x [..., d], its numbers [...], a normal [..., d]."""
  square, along, rest = draw
  sq_norm = jnp.sum(x * x, -1)
  known = jnp.maximum(sq_norm, _TINY)
  # r = ‖x‖ z − e, of which e has `along` on z and the rest off it.
  on_z = jnp.sqrt(sq_norm * square) - noise * along
  size = jnp.sqrt(on_z**2 + noise**2 * rest)
  along_x = (jnp.sqrt(square / known) * on_z
             - size * jnp.sum(normal * x, -1) / known)
  return (along_x[..., None] * x + size[..., None] * normal) / batch_size


def _stepper(draws, *, dimension, depth, is_reversed, rates, staleness, noise,
             batch_size, key):
  """Make the start, and a step, of all rates and runs.

  With `is_reversed`, x is stored with its last coordinate first, and so are the
  normal vectors: all sums over coordinates are taken in reverse order.
  """
  runs = draws[0].shape[1]
  first = -1 if is_reversed else 0
  start = jnp.zeros((len(rates), runs, dimension)).at[..., first].set(1.)
  past = jnp.zeros((depth, *start.shape))

  def step(t, x, past):
    """Remember x; step by the gradient at what it was, or stand still."""
    past = lax.dynamic_update_index_in_dim(past, x, t % depth, 0)
    read = past[(t - staleness) % depth]
    normal = jax.random.normal(jax.random.fold_in(key, t), (1, runs, dimension))
    normal = normal[..., ::-1] if is_reversed else normal
    draw = tuple(n[t][None, :] for n in draws)
    g = gradient(read, draw, noise, batch_size, normal)
    move = jnp.where(t < staleness, 0., rates)[:, None, None] * g
    return x - move, past

  return start, past, step


@functools.partial(jax.jit, static_argnames=(*_SHAPES, 'together'))
def _until(target, draws, together, **setting):
  """Count steps to the target: [rates, runs]."""
  start, past, step = _stepper(draws, **setting)
  rates, lanes, _ = start.shape
  shape = rates, lanes // together

  def advance(t, state):
    x, past = step(t, *state)
    square = jnp.sum(x * x, -1).reshape(*shape, together)
    return (x, past), square.mean(-1) <= target

  return search.first_steps(
    advance, (start, past), shape, setting['staleness'], len(draws[0]))


@functools.partial(jax.jit, static_argnames=_SHAPES)
def _halves(draws, **setting):
  """Sum ‖x‖² at the middle and at the end: [2, rates, runs]."""
  start, past, step = _stepper(draws, **setting)
  half = len(draws[0]) // 2

  def advance(carry, at):
    carry = lax.fori_loop(at, at + half, lambda t, c: step(t, *c), carry)
    # Over a window as long as the delay, in which x may turn.
    return carry, jnp.sum(carry[1]**2, (0, -1)) + jnp.sum(carry[0]**2, -1)

  return lax.scan(advance, (start, past), jnp.array([0, half], jnp.int32))[1]
