"""CHOCO-SGD: mix by sending compressed differences."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, counting, stateful, trees
from gradiv.decentralized import _pulls, _updates


class MixByChocoState(NamedTuple):
  """State of `mix_by_choco`.

  Attributes:
    public: x̂, the copy of this worker's parameters that its neighbors know.
    apart: Σ_j W_ij (x̂_j − x̂_i). It is stored as a difference because it is
      small when workers agree, and so is its rounding error, which moves the
      mean of all workers.
    inner: State of the compressor.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  public: optax.Params
  apart: optax.Params
  inner: Any
  num_left_out: jax.Array


def mix_by_choco(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  compressor: optax.GradientTransformation,
  *,
  consensus_step: float,
) -> optax.GradientTransformationExtraArgs:
  """Mix public copies of the parameters, updated by compressed differences.

  Use it in place of `mix_by_gossip` when messages must be smaller than the
  parameters. Each worker sends the compressed difference q between its
  parameters and the copy x̂ that its neighbors know; what the compressor C
  leaves out remains in the difference, and is sent later.

    x ← x + u,  q = C(x − x̂),  x̂ ← x̂ + q
    x ← x + γ Σ_j W_ij (x̂_j − x̂_i)

  The mean over the workers moves by the mean of u, no matter how much C leaves
  out. Here q travels as an array of full size (mostly zeros, or on a grid);
  packing it into fewer bytes is up to the transport. Each worker keeps the
  weighted sum of its neighbors' x̂, not a copy of each.

  >>> import gradiv
  >>> import jax.numpy as jnp
  >>> from gradiv import topology
  >>> tx = optax.chain(optax.sgd(0.1), mix_by_choco(
  ...     topology.ring(4), 'workers', gradiv.keep_top_k(0.5),
  ...     consensus_step=0.5))
  >>> x = jnp.array([[0., 4.], [0., 4.], [0., 10.], [0., 10.]])
  >>> gradiv.map_workers(lambda x: x + tx.update(0 * x, tx.init(x), x)[0],
  ...                    'workers')(x)[:, 1].round(3).tolist()
  [5.0, 5.0, 9.0, 9.0]

  Each worker sends its larger coordinate, and moves by half of what
  `mix_by_gossip` would move it.

  Koloskova, Stich, Jaggi, `Decentralized Stochastic Optimization and Gossip
  Algorithms with Compressed Communication <https://arxiv.org/abs/1902.00340>`_,
  2019.

  Args:
    mixing_matrix: W [n, n], doubly stochastic, the same at each step.
    axis_name: The axis of the workers; see `mix`.
    compressor: Transformation of one worker's tree, such as `keep_top_k`,
      `keep_signs`, or `quantize_updates`.
    consensus_step: γ, above 0 and at most 1; see `tune_consensus_step`. With
      γ = 1 and nothing left out, this is `mix_by_gossip` with 'atc'.

  Raises:
    ValueError: While tracing, as for `mix_by_gossip`.
  """
  w = _updates.constant_matrix(mixing_matrix)
  _pulls.names_of(axis_name)
  checks.positive('consensus_step', consensus_step, one=True)
  checks.within('consensus_step', consensus_step, 0, 1, one=True)
  compressor = checks.transformation('compressor', compressor)

  def init_fn(params):
    return MixByChocoState(trees.zeros_wide(params), trees.zeros_wide(params),
                           compressor.init(params), jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    _updates.check_given(params, updates)
    x, without = _updates.add_finite(axis_name, (trees.widen(params),), updates)
    gap = jax.tree.map(
      lambda x, known, p: (x - known).astype(p.dtype), x, state.public, params)
    sent, inner = compressor.update(gap, state.inner, params, **extra_args)
    public = _updates.add(state.public, sent)
    pulled = _pulls.pull(w, sent, axis_name)
    apart = _updates.add(state.apart, pulled.pull)
    moved = jax.tree.map(
      lambda x, apart, p: (x + consensus_step * apart - p).astype(p.dtype),
      x, apart, params)
    return moved, MixByChocoState(
      public, apart, inner, counting.increment(
        state.num_left_out, without + pulled.num_left_out))

  return stateful.transformation(
    init_fn, update_fn, MixByChocoState, like_params=('public', 'apart'))
