"""Choose the consensus step of CHOCO-SGD by simulation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks
from gradiv.decentralized import _updates, choco, mixing


def tune_consensus_step(
  mixing_matrix: np.ndarray,
  axis_name: workers.AxisName,
  compressor: optax.GradientTransformation,
  params: optax.Params,
  *,
  key: jax.Array,
  num_steps: int = 100,
  tolerance: float = 1e-6,
  candidates: Sequence[float] = tuple(2.0**-np.arange(0, 8.5, 0.5)),
) -> float:
  """Find the step γ of `mix_by_choco` with which workers agree fastest.

  Call it once before training; steps that are proved to converge are far
  smaller than necessary. It simulates n workers that start from normal
  parameters and only average, once per candidate. The best candidate is the one
  whose squared distance from the mean falls to `tolerance` of its initial value
  in the fewest steps. If none gets there within `num_steps`, it is the one that
  comes closest.

  >>> import gradiv
  >>> from gradiv import topology
  >>> tune_consensus_step(
  ...     topology.ring(4), 'workers', optax.identity(), jnp.zeros(50),
  ...     key=jax.random.key(0), candidates=(1.0, 0.5, 0.25))
  1.0

  Without compression, larger steps average faster.

  Args:
    mixing_matrix: W [n, n].
    axis_name: The axis of the simulated workers. Must be the axis of the
      compressor, if that draws random numbers.
    compressor: As for `mix_by_choco`.
    params: Parameters of one worker; only shapes and dtypes are used.
    key: Random key for the initial parameters.
    num_steps: Number of simulated steps.
    tolerance: Remaining fraction of the squared distance that counts as
      agreement; well above the squared rounding error of float32.
    candidates: Steps to try, above 0 and at most 1.

  Returns:
    The best candidate.

  Raises:
    ValueError: If no candidate brings the workers closer together.
  """
  n = len(_updates.constant_matrix(mixing_matrix))
  checks.key('key', key)
  checks.count('num_steps', num_steps, 1)
  checks.positive('tolerance', tolerance)
  if not len(candidates):
    raise ValueError('candidates=(): must be one or more')
  for candidate in candidates:
    checks.positive('candidates', candidate)
    checks.within('candidates', candidate, 0, 1)

  shapes = jax.eval_shape(lambda: params)
  start = optax.tree.random_like(key, jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), shapes))

  def distances(consensus_step, x):
    tx = choco.mix_by_choco(mixing_matrix, axis_name, compressor,
                            consensus_step=consensus_step)
    return _distances(tx, x, axis_name, num_steps)

  average = workers.map_workers(
    distances, axis_name, in_axes=(None, 0), out_axes=None)

  def merit(candidate):
    path = np.asarray(average(jnp.float32(candidate), start))
    path = np.where(np.isfinite(path), path, np.inf)
    return np.sum(path > tolerance), path[-1]

  best = min(candidates, key=merit)
  if n > 1 and not merit(best)[1] < 1:
    raise ValueError(f'candidates={[float(c) for c in candidates]}: none '
                     'brings the workers closer together in '
                     f'num_steps={num_steps}')
  return float(best)


def _distances(tx, x, axis_name, num_steps):
  """Return the consensus distance after each step, relative to the first."""
  zeros = jax.tree.map(jnp.zeros_like, x)

  def step(carry, _):
    x, state = carry
    updates, state = tx.update(zeros, state, x)
    x = optax.apply_updates(x, updates)
    return (x, state), mixing.consensus_distance(x, axis_name)

  _, path = jax.lax.scan(step, (x, tx.init(x)), None, length=num_steps)
  return path / mixing.consensus_distance(x, axis_name)
