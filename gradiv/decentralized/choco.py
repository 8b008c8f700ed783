"""Mixing by compressed differences: CHOCO-SGD, and a tuner of its step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.decentralized import corrected, gossip, mixing


class ChocoState(NamedTuple):
  """State of `mix_by_choco`.

  Attributes:
    public: x̂, what the others know of this worker.
    apart: Σ_j W_ij (x̂_j − x̂_i). Kept as a difference: it is small where
      workers agree, and so is its rounding, which moves the mean of all.
    inner: State of the compressor.
  """

  public: optax.Params
  apart: optax.Params
  inner: Any


def mix_by_choco(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  compressor: optax.GradientTransformation,
  *,
  consensus_step: float,
) -> optax.GradientTransformationExtraArgs:
  """Mix what workers know of each other, and send compressed differences.

    x ← x + u,  q = C(x − x̂),  x̂ ← x̂ + q
    x ← x + γ Σ_j W_ij (x̂_j − x̂_i)

  The mean of the workers moves by the mean of u, whatever C leaves out, and
  what it leaves out is sent later. q is sent in place of x: here as an array of
  full size, most of it zero, or on a grid; packing it is left to the wire. Each
  worker keeps the weighted sum of its neighbours' x̂, not one copy of each.

  >>> import gradiv
  >>> from gradiv import topology
  >>> tx = optax.chain(optax.sgd(0.1), mix_by_choco(
  ...     topology.ring(4), 'workers', gradiv.keep_top_k(0.5),
  ...     consensus_step=0.5))
  >>> x = jnp.array([[0., 4.], [0., 4.], [0., 10.], [0., 10.]])
  >>> gradiv.map_workers(lambda x: x + tx.update(0 * x, tx.init(x), x)[0],
  ...                    'workers')(x)[:, 1].round(3).tolist()
  [5.0, 5.0, 9.0, 9.0]

  Koloskova, Stich, Jaggi, `Decentralized Stochastic Optimization and Gossip
  Algorithms with Compressed Communication <https://arxiv.org/abs/1902.00340>`_,
  2019.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, the same at each step.
    axis_name: The axis over which the workers lie; see `mix`.
    compressor: Of one worker's tree, such as `keep_top_k`, `keep_signs`, or
      `quantize_updates`.
    consensus_step: γ, above 0 and at most 1; see `tune_consensus_step`. With
      γ = 1 and nothing left out, this is `mix_by_gossip` by 'atc'.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  w = corrected.single(mixing_matrix)
  mixing.names_of(axis_name)
  checks.positive('consensus_step', consensus_step)
  checks.within('consensus_step', consensus_step, 0, 1)
  compressor = optax.with_extra_args_support(compressor)

  def init_fn(params):
    zeros = lambda: trees.zeros_wide(params)
    return ChocoState(zeros(), zeros(), compressor.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    gossip.check_given(params)
    x = jax.tree.map(
      lambda x, u: trees.widen(x) + u, params, updates)
    gap = jax.tree.map(
      lambda x, known, p: (x - known).astype(p.dtype), x, state.public, params)
    sent, inner = compressor.update(gap, state.inner, params, **extra_args)
    add = lambda x, d: (x + d).astype(x.dtype)
    public = jax.tree.map(add, state.public, sent)
    apart = jax.tree.map(
      add, state.apart, mixing.pull(w, sent, axis_name))
    moved = jax.tree.map(
      lambda x, apart, p: (x + consensus_step * apart - p).astype(p.dtype),
      x, apart, params)
    return moved, ChocoState(public, apart, inner)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def tune_consensus_step(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  compressor: optax.GradientTransformation,
  params: optax.Params,
  *,
  key: jax.Array,
  num_steps: int = 100,
  aim: float = 1e-6,
  candidates: Sequence[float] = tuple(2.0**-np.arange(0, 8.5, 0.5)),
) -> float:
  """Find the step γ of `mix_by_choco` by which workers agree soonest.

  Lets n simulated workers with normal parameters average by each candidate, and
  takes that by which the squared distance from their mean falls soonest to
  `aim` times what it was; of those that do not get there in `num_steps`, the
  closest. Steps that are proved to converge are far smaller.

  >>> import gradiv
  >>> from gradiv import topology
  >>> tune_consensus_step(
  ...     topology.ring(4), 'workers', optax.identity(), jnp.zeros(50),
  ...     key=jax.random.key(0), candidates=(1.0, 0.5, 0.25))
  1.0

  Args:
    mixing_matrix: W [n, n].
    axis_name: Of the simulated workers; that along which `compressor` draws,
      if it does.
    compressor: As for `mix_by_choco`.
    params: Shapes and dtypes of one worker's parameters.
    key: Draws the parameters.
    num_steps: How long to average.
    aim: What is as good as agreement; well above float32's squared rounding.
    candidates: Steps to try, above 0 and at most 1.

  Raises:
    ValueError: Where no candidate brings the workers closer together.
  """
  n = len(corrected.single(mixing_matrix))
  checks.count('num_steps', num_steps, 1)
  checks.positive('aim', aim)
  shapes = jax.eval_shape(lambda: params)
  start = optax.tree.random_like(key, jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), shapes))

  if not len(candidates):
    raise ValueError('candidates=(): must be one or more')
  for step_size in candidates:
    checks.positive('candidates', step_size)
    checks.within('candidates', step_size, 0, 1)

  def distances(step_size, x):
    tx = mix_by_choco(mixing_matrix, axis_name, compressor,
                      consensus_step=step_size)
    zeros = jax.tree.map(jnp.zeros_like, x)

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(zeros, state, x)
      x = optax.apply_updates(x, updates)
      return (x, state), gossip.consensus_distance(x, axis_name)

    _, path = jax.lax.scan(step, (x, tx.init(x)), None, length=num_steps)
    return path / gossip.consensus_distance(x, axis_name)

  average = workers.map_workers(
    distances, axis_name, in_axes=(None, 0), out_axes=None)

  def merit(step_size):
    path = np.asarray(average(jnp.float32(step_size), start))
    path = np.where(np.isfinite(path), path, np.inf)
    return np.sum(path > aim), path[-1]

  best = min(candidates, key=merit)
  if n > 1 and not merit(best)[1] < 1:
    raise ValueError(f'candidates={[float(c) for c in candidates]}: none '
                     'brings the workers closer together in '
                     f'num_steps={num_steps}')
  return float(best)
