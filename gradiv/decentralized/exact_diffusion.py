"""Exact diffusion (D²) and EXTRA: no bias from data that differ by worker.

In decentralized SGD, the force by which a worker's own data pull it away
balances the mixing at points O(α) from the optimum. That force is constant
there. Both methods integrate it into a correction that cancels it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, counting, stateful, trees
from gradiv.decentralized import _pulls, _updates, topology


class MixByCorrectionState(NamedTuple):
  """State of `mix_by_exact_diffusion` and of `mix_by_extra`.

  Attributes:
    count: Number of steps so far.
    correction: c, added to each update; it sums to zero over the workers.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  count: jax.Array
  correction: optax.Updates
  num_left_out: jax.Array


def mix_by_exact_diffusion(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  *,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Adapt, correct, then combine: exact diffusion, also known as D².

  Use it in place of `mix_by_gossip` on an undirected, constant graph when the
  workers' data differ: it sends the same messages, and ends at the minimum of
  the mean loss.

    φ = x + u + c,  x ← W φ,  c ← c + (W − I) φ

  With u = −α ∇f this is

    X_{t+1} = W (2 X_t − X_{t−1} − α (∇f(X_t) − ∇f(X_{t−1}))).

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_exact_diffusion(
  ...     topology.lazy(topology.ring(4)), 'workers'))
  >>> def run(c):  # The loss of a worker is (x − c)²/2.
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=60)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([0., 0., 2., 6.])).round(4).tolist()
  [2.0, 2.0, 2.0, 2.0]

  All workers end at the mean of their minima; with `mix_by_gossip` each would
  stay between that mean and its own.

  Yuan et al., `Exact Diffusion for Distributed Optimization
  <https://arxiv.org/abs/1702.05122>`_, 2017; Tang et al., `D²: Decentralized
  Training over Decentralized Data <https://arxiv.org/abs/1803.07068>`_, 2018.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, of a connected graph, with
      eigenvalues above −1/3. `topology.lazy` makes any symmetric matrix fit;
      hardly any directed graph does.
    axis_name: The axis of the workers; see `mix`.
    schedule: Learning rate by step, if it changes; c is then rescaled with it.

  Raises:
    ValueError: If a mode of the recursion does not die out; and, while tracing,
      as for `mix_by_gossip`.
  """
  w = _updates.constant_matrix(mixing_matrix)
  # Without gradients a mode of eigenvalue λ moves by z² − 2λz + λ = 0.
  _check_modes(w, lambda value: (1, -2 * value, value))

  def step(x, u, c):
    phi, without = _updates.add_finite(axis_name, (x,), u, (c,))
    pull, num_left_out = _pulls.pull(w, phi, axis_name)
    return (_updates.add(phi, pull), _updates.add(c, pull),
            without + num_left_out)

  return _corrected(step, axis_name, schedule)


def mix_by_extra(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  *,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Correct the bias while mixing runs beside the gradient: EXTRA.

  Use it in place of `mix_by_exact_diffusion` when communication must overlap
  with the gradient (what it sends is known before the gradient is), or when W
  has eigenvalues below −1/3. It tolerates smaller learning rates only.

    x ← W x + u + c,  c ← c + (W − I) x / 2

  With u = −α ∇f this is

    X_{t+2} = (I + W) X_{t+1} − (I + W)/2 X_t − α (∇f(X_{t+1}) − ∇f(X_t)).

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_extra(
  ...     topology.ring(4), 'workers'))
  >>> def run(c):  # The loss of a worker is (x − c)²/2.
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=60)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([0., 0., 2., 6.])).round(4).tolist()  # the mean of c
  [2.0, 2.0, 2.0, 2.0]

  Shi et al., `EXTRA: An Exact First-Order Algorithm for Decentralized
  Consensus Optimization <https://arxiv.org/abs/1404.6264>`_, 2014.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, of a connected graph; hardly any
      directed graph fits.
    axis_name: The axis of the workers; see `mix`.
    schedule: Learning rate by step, if it changes; c is then rescaled with it.

  Raises:
    ValueError: If a mode of the recursion does not die out; and, while tracing,
      as for `mix_by_gossip`.
  """
  w = _updates.constant_matrix(mixing_matrix)
  _check_modes(w, lambda value: (1, -(1 + value), (1 + value) / 2))

  def step(x, u, c):
    pull, num_left_out = _pulls.pull(w, x, axis_name)
    half = jax.tree.map(lambda d: d / 2, pull)
    moved, without = _updates.add_finite(axis_name, (x, pull), u, (c,))
    return moved, _updates.add(c, half), without + num_left_out

  return _corrected(step, axis_name, schedule)


def _corrected(step, axis_name, schedule):
  """Create a transformation from ``step(x, u, c) -> (x, c, left out)``."""
  _pulls.names_of(axis_name)
  checks.function('schedule', schedule)

  def init_fn(params):
    return MixByCorrectionState(
      jnp.zeros((), jnp.int32), trees.zeros_wide(params),
      jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    c = _updates.rescale(state.correction, schedule, state.count)
    moved, c, left_out = step(params, updates, c)
    return jax.tree.map(jnp.subtract, moved, params), MixByCorrectionState(
      counting.increment(state.count), c,
      counting.increment(state.num_left_out, left_out))

  return stateful.transformation(
    init_fn, update_fn, MixByCorrectionState, like_params=('correction',))


def _check_modes(w, polynomial):
  """Raise ValueError unless every mode except the consensus dies out."""
  if not topology.is_connected(w[None]):
    raise ValueError('mixing_matrix is not that of a connected graph: the '
                     'workers cannot agree')
  values = np.linalg.eigvals(w - 1 / len(w))
  roots = [np.abs(np.roots(polynomial(v))).max(initial=0) for v in values]
  worst = int(np.argmax(roots))
  if roots[worst] > 1 - 1e-9:
    value = np.real_if_close(values[worst], tol=1e6)[()]
    raise ValueError(
      f'mixing_matrix has an eigenvalue of {value:.6g}, whose mode is '
      f'multiplied by {roots[worst]:g} at each step: must be below 1; '
      'if the matrix is symmetric, use topology.lazy')
