"""Decentralised steps without the bias of data that differ by worker.

Where each worker's gradient vanishes elsewhere, mixing and stepping balance at
points that are off by O(α). What pulls the workers apart is constant there: it
is summed up, or the mean gradient is tracked, until nothing is left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import trees
from gradiv.decentralized import gossip, mixing, topology


class CorrectedState(NamedTuple):
  """State of `mix_by_exact_diffusion` and of `mix_by_extra`.

  Attributes:
    count: Steps so far.
    correction: c, added to each update; Σ_i c_i = 0.
  """

  count: jax.Array
  correction: optax.Updates


def mix_by_exact_diffusion(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  *,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Adapt, correct, then combine: exact diffusion, also called D².

  φ = x + u + c,  x ← W φ,  c ← c + (W − I) φ. With u = −α ∇f that is

    X_{t+1} = W (2 X_t − X_{t−1} − α (∇f(X_t) − ∇f(X_{t−1}))),

  which ends at the minimum of the mean loss, also where workers' data differ.
  It stands last in a chain, as `mix_by_gossip` does.

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_exact_diffusion(
  ...     topology.lazy(topology.ring(4)), 'workers'))
  >>> def run(c):  # a worker's loss is (x − c)²/2
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=60)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([0., 0., 2., 6.])).round(4).tolist()
  [2.0, 2.0, 2.0, 2.0]

  Yuan et al., `Exact Diffusion for Distributed Optimization
  <https://arxiv.org/abs/1702.05122>`_, 2017; Tang et al., `D²: Decentralized
  Training over Decentralized Data <https://arxiv.org/abs/1803.07068>`_, 2018.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, of a connected graph, with
      eigenvalues above −1/3: `topology.lazy` makes those of a symmetric one
      so. Of directed graphs hardly any will do.
    axis_name: The axis over which the workers lie; see `mix`.
    schedule: The learning rate by step, where it changes: c is rescaled with
      it, as it balances a step.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  w = single(mixing_matrix)
  # Without gradients a mode of eigenvalue λ moves by z² − 2λz + λ = 0.
  _check_modes(w, lambda value: (1, -2 * value, value))

  def step(x, u, c):
    phi = _add(x, u, c)
    pull = mixing.pull(w, phi, axis_name)
    return _add(phi, pull), _add(c, pull)

  return _corrected(step, axis_name, schedule)


def mix_by_extra(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  *,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Correct while mixing runs beside the gradient: EXTRA.

  x ← W x + u + c,  c ← c + (W − I) x / 2. With u = −α ∇f that is

    X_{t+2} = (I + W) X_{t+1} − (I + W)/2 X_t − α (∇f(X_{t+1}) − ∇f(X_t)).

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_extra(
  ...     topology.ring(4), 'workers'))
  >>> def run(c):  # a worker's loss is (x − c)²/2
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=60)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([0., 0., 2., 6.])).round(4).tolist()
  [2.0, 2.0, 2.0, 2.0]

  Shi et al., `EXTRA: An Exact First-Order Algorithm for Decentralized
  Consensus Optimization <https://arxiv.org/abs/1404.6264>`_, 2014.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, of a connected graph; of
      directed ones hardly any will do.
    axis_name: The axis over which the workers lie; see `mix`.
    schedule: As for `mix_by_exact_diffusion`.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  w = single(mixing_matrix)
  _check_modes(w, lambda value: (1, -(1 + value), (1 + value) / 2))

  def step(x, u, c):
    pull = mixing.pull(w, x, axis_name)
    half = jax.tree.map(lambda d: d / 2, pull)
    return _add(x, pull, u, c), _add(c, half)

  return _corrected(step, axis_name, schedule)


def _corrected(step, axis_name, schedule):
  """Make a transformation of ``(x, u, c) -> (x, c)``."""
  mixing.names_of(axis_name)

  def init_fn(params):
    return CorrectedState(jnp.zeros((), jnp.int32), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    gossip.check_given(params)
    c = rescale(state.correction, schedule, state.count)
    moved, c = step(params, updates, c)
    return jax.tree.map(jnp.subtract, moved, params), CorrectedState(
      optax.safe_increment(state.count), c)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class TrackGradientsState(NamedTuple):
  """State of `track_gradients`.

  Attributes:
    count: Steps so far.
    offset: W y − g, what is added to the next gradient; the sum of all pulls.
  """

  count: jax.Array
  offset: optax.Updates


def track_gradients(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Replace each worker's gradient by one that tracks the mean of all.

  y_t = W y_{t−1} + g_t − g_{t−1}, y_0 = g_0, so that the mean of y is always
  that of g. It stands where the gradient enters; what follows, momentum and
  adaptive rates included, sees y:

    optax.chain(track_gradients(w, axis), optax.sgd(α), mix_by_gossip(w, axis))

  is gradient tracking, X ← W X − α Y. With a column-stochastic matrix and
  `mix_by_push_sum` it is Push-DIGing, for directed graphs.

  >>> tx = track_gradients(topology.complete(2), 'workers')
  >>> def run(g):
  ...   y, state = tx.update(g, tx.init(g))
  ...   return tx.update(g, state)[0]
  >>> jax.vmap(run, axis_name='workers')(jnp.array([1., 5.])).tolist()
  [3.0, 3.0]

  Nedić et al., `Achieving Geometric Convergence for Distributed Optimization
  over Time-Varying Graphs <https://arxiv.org/abs/1607.03218>`_, 2016.

  Args:
    mixing_matrix: W [n, n], or a sequence taken in turn; columns add up to 1.
    axis_name: The axis over which the workers lie; see `mix`.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix`.
  """
  bank = topology.check_columns(mixing_matrix, 'mixing_matrix')
  pull = mixing.pull_in_turn(bank, axis_name)
  mixing.names_of(axis_name)

  def init_fn(params):
    return TrackGradientsState(jnp.zeros((), jnp.int32), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    # In float32 at least, the messages too: errors of y would add up.
    tracked = _add(trees.widen(updates), state.offset)
    offset = _add(state.offset, pull(tracked, state.count))
    return optax.tree.cast_like(tracked, updates), TrackGradientsState(
      optax.safe_increment(state.count), offset)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def single(mixing_matrix: np.ndarray) -> np.ndarray:
  """Check a matrix that may not change from step to step."""
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  if len(bank) != 1:
    raise ValueError(f'mixing_matrix of shape {bank.shape}: must be [n, n], '
                     'the same at each step')
  return bank[0]


def rescale(
  tree: optax.Updates, schedule: optax.Schedule | None, count: jax.Array
) -> optax.Updates:
  """Bring what is kept in units of the last step to those of this one."""
  if schedule is None:
    return tree
  now, last = schedule(count), schedule(jnp.maximum(count - 1, 0))
  # Exactly 1 where nothing changed but for rounding, which would add up. Of a
  # rate that falls as slowly as that, what is kept follows by itself.
  same = jnp.abs(now - last) <= 4 * jnp.finfo(jnp.float32).eps * jnp.abs(last)
  ratio = jnp.where(same | (last == 0), 1.0, now / last)
  return jax.tree.map(lambda x: (ratio * x).astype(x.dtype), tree)


def _check_modes(w, polynomial):
  """Raise ValueError unless all modes but the consensus die out."""
  if not topology.is_connected(w[None]):
    raise ValueError('mixing_matrix is not of a connected graph: the workers '
                     'cannot agree')
  values = np.linalg.eigvals(w - 1 / len(w))
  roots = [np.abs(np.roots(polynomial(v))).max(initial=0) for v in values]
  worst = int(np.argmax(roots))
  if roots[worst] > 1 - 1e-9:
    value = np.real_if_close(values[worst], tol=1e6)[()]
    raise ValueError(
      f'mixing_matrix with an eigenvalue of {value:.6g}, of which the '
      f'mode is multiplied by {roots[worst]:g} a step: must be below 1; '
      'topology.lazy helps where the matrix is symmetric')


def _add(x, *rest):
  """Add up, in the dtypes of the first."""
  return jax.tree.map(lambda x, *rest: sum(rest, x).astype(x.dtype), x, *rest)
