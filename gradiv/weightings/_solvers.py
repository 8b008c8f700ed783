"""Solvers for small convex problems, inside a compiled program.

For up to about 64 unknowns, in float32. Each solver is a loop of Cholesky
factorizations that stops at the solution, or after a bounded number of rounds,
and runs under `jax.jit`, `jax.vmap` and `jax.lax.scan`. Results are always
feasible, and finite if the arguments are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from gradiv.weightings import geometry

# Makes a Gram matrix safe to factorize in float32, relative to its diagonal:
# about the rounding of its entries, for 64 of them.
RIDGE = 4e-6
# The rounding of one inner product, relative to the sum of its magnitudes.
_ROUNDING = 2e-6


def ridged(cos: jax.Array) -> jax.Array:
  """Regularize a matrix of cosines, so that it is safe to factorize in float32.

  As if each gradient had another component of its own, of √RIDGE = 0.2 % of
  its length.
  """
  return cos + RIDGE * jnp.eye(len(cos), dtype=cos.dtype)


class _Pivot(NamedTuple):
  x: jax.Array
  passive: jax.Array  # Which unknowns may be positive.
  barred: jax.Array  # Which went back to zero without a step; not retried.
  done: jax.Array
  count: int


def nonnegative(hessian: jax.Array, linear: jax.Array) -> jax.Array:
  """Solve min_{u ≥ 0} ½ uᵀHu + qᵀu for a positive definite H.

  This is the active-set method of Lawson and Hanson on the normal equations: u
  is exactly zero where the bound is active, and elsewhere the solution of a
  linear system. On random H with condition numbers up to 1e6, the conditions
  u ≥ 0, Hu + q ≥ 0, uᵀ(Hu + q) = 0 hold to 2e-6 of |H||u| + |q|. After 10 n
  rounds (about n are usual), or if H is not positive definite to rounding, the
  last u is returned, which is feasible and the best so far.

  >>> nonnegative(jnp.eye(2), jnp.array([-3., 1.])).tolist()
  [3.0, 0.0]

  Args:
    hessian: H, [n, n].
    linear: q, [n].

  Returns:
    u, [n].

  Lawson and Hanson, `Solving Least Squares Problems
  <https://doi.org/10.1137/1.9781611971217>`_, 1974, chapter 23.
  """
  scale = jax.lax.rsqrt(jnp.diagonal(hessian))
  h, q = hessian * scale[:, None] * scale[None, :], linear * scale
  zero = 0 * (h[0] + q)
  start = _Pivot(zero, zero > 0, zero > 0, zero[0] > 0, 0)
  end = jax.lax.while_loop(
    lambda s: ~s.done & (s.count < 10 * len(q)),
    lambda s: _pivot(h, q, s), start)
  return scale * end.x


def _pivot(h, q, state):
  """Move toward the minimum on the passive unknowns, up to the next bound."""
  x, passive, barred, _, count = state
  target = _solve_on(h, -q, passive)
  failed = ~jnp.all(jnp.isfinite(target))
  below = passive & (target <= 0)
  ratio = jnp.where(below, x / jnp.where(below & (x > 0), x - target, 1), 2)
  step, blocks = jnp.min(ratio), jnp.arange(len(q)) == jnp.argmin(ratio)
  inside = ~jnp.any(below)
  between = jnp.maximum(x + step * (target - x), 0)
  x_new = jnp.where(inside, target, jnp.where(passive & ~blocks, between, 0))
  x_new = jnp.where(failed, x, x_new)
  # At a minimum, free the unknown with the steepest slope.
  stuck = ~inside & (step <= 0)
  moved = jnp.where(inside, jnp.any(passive & (x <= 0)), step > 0)
  barred = jnp.where(stuck, barred | blocks, barred & ~moved)
  slope = geometry.dot(h, x_new) + q
  tolerance = _ROUNDING * (geometry.dot(jnp.abs(h), x_new) + jnp.abs(q))
  steep = ~passive & ~barred & (slope < -tolerance)
  freed = jnp.arange(len(q)) == jnp.argmin(jnp.where(steep, slope, jnp.inf))
  passive = jnp.where(inside, passive | (steep & freed),
                      passive & ~blocks & ~(below & (x_new <= 0)))
  done = failed | (inside & ~jnp.any(steep))
  return _Pivot(x_new, passive, barred, done, count + 1)


def _solve_on(h, b, kept):
  """Solve H x = b among the unknowns that are kept; the others are zero."""
  eye = jnp.eye(len(b), dtype=bool)
  h = jnp.where(kept[:, None] & kept[None, :], h, eye.astype(h.dtype))
  b = jnp.where(kept, b, 0)
  factor = (jnp.linalg.cholesky(h), True)
  x = jax.scipy.linalg.cho_solve(factor, b)
  return x + jax.scipy.linalg.cho_solve(factor, b - geometry.dot(h, x))


class _Newton(NamedTuple):
  x: jax.Array
  done: jax.Array
  count: int


def reciprocal(hessian: jax.Array) -> jax.Array:
  """Solve H a = 1/a, elementwise, for positive a and positive definite H.

  a minimizes ½ aᵀHa − Σ log a_i, which is self-concordant, so the damped Newton
  method converges from anywhere, and quadratically in the end. It takes about 6
  rounds and 50 at most; a is positive in any case.

  >>> reciprocal(jnp.diag(jnp.array([1., 4.]))).tolist()
  [1.0, 0.5]

  Nesterov, `Lectures on Convex Optimization
  <https://doi.org/10.1007/978-3-319-91578-4>`_, 2018, chapter 5.
  """
  scale = jax.lax.rsqrt(jnp.diagonal(hessian))
  h = hessian * scale[:, None] * scale[None, :]
  one = 1 + 0 * h[0]
  end = jax.lax.while_loop(
    lambda s: ~s.done & (s.count < 50),
    lambda s: _newton(h, s), _Newton(one, one[0] < 0, 0))
  return scale * end.x


def _newton(h, state):
  """Take a damped Newton step in log a, then scale a to the best multiple."""
  a = state.x
  h_a = h * a[:, None] * a[None, :]
  residual = 1 - jnp.sum(h_a, 1)
  z = _solve_on(h_a + jnp.eye(len(a), dtype=a.dtype), residual, a > 0)
  decrement = jnp.sqrt(jnp.maximum(geometry.dot(z, residual), 0))
  step = jnp.where(decrement < 0.25, 1, 1 / (1 + decrement))
  a = a * (1 + step * z)
  a = a * jnp.sqrt(len(a) / geometry.dot(a, geometry.dot(h, a)))
  return _Newton(a, decrement < 1e-3, state.count + 1)


class _Level(NamedTuple):
  t: jax.Array
  u: jax.Array
  length: jax.Array
  done: jax.Array
  count: int


def highest_level(
  hessian: jax.Array, linear: jax.Array, radius: jax.Array, top: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Solve max t over u ≥ 0 with Hu + b ≥ t and √(uᵀHu) ≤ r.

  With H = JJᵀ and b = J d₀ this is max_d min_i g_i·d over |d − d₀| ≤ r, where
  d = d₀ + Jᵀu. For a given t, `nonnegative` finds the shortest Jᵀu. Its length
  is convex in t with the slope Σu/length, so Newton's method, begun above,
  descends to r monotonically. It stops within 1e-6 of r, or after 50 rounds
  (about 5 are usual).

  >>> t, u = highest_level(jnp.eye(1), jnp.ones(1), 2., 5.)
  >>> float(t), u.tolist()
  (3.0, [2.0])

  Args:
    hessian: H, [n, n], positive definite.
    linear: b, [n].
    radius: r, positive.
    top: A t that is too high, or exactly right.

  Returns:
    t and u.
  """
  def descend(state):
    t = state.t - jnp.where(
      state.count > 0, _excess(state, radius), 0)
    u = nonnegative(hessian, linear - t)
    length = jnp.sqrt(jnp.maximum(geometry.dot(u, geometry.dot(hessian, u)), 0))
    return _Level(t, u, length, length <= radius * (1 + 1e-6),
                  state.count + 1)

  zero = 0 * (hessian[0] + linear)
  start = _Level(top + zero[0] + 0 * radius, zero + 0 * radius,
                 zero[0] + 0 * radius, (zero[0] + 0 * radius) > 0, 0)
  end = jax.lax.while_loop(
    lambda s: ~s.done & (s.count < 50), descend, start)
  return end.t, end.u


def _excess(state, radius):
  """Compute by how much Newton's method lowers t."""
  total = jnp.sum(state.u)
  return jnp.where(
    total > 0, (state.length - radius) * state.length, 0) / jnp.where(
      total > 0, total, 1)
