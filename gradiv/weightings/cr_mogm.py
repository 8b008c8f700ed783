"""CR-MOGM: average the weights of another rule over the steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, weighting


class CRMOGMState(NamedTuple):
  """State of `cr_mogm`.

  Attributes:
    averages: Averages of the weights, [n], and of those of extra rows.
    seen: Which gradients have been present so far.
    then: State of the rule whose weights are averaged.
  """

  averages: jax.Array
  seen: jax.Array
  then: Any


def cr_mogm(
  then: weighting.Weighting, decay: jax.typing.ArrayLike = 0.9
) -> weighting.Weighting:
  """Average the weights of another rule over the steps.

  Use it around a rule for several losses whose weights jump from batch to
  batch, such as `mgda`: weights that depend on the noise of a batch bias the
  update, and smooth ones do so less.

  w ← decay w + (1 − decay) then(G), beginning with the first then(G). A
  gradient that is absent keeps its average for when it returns.

  >>> from gradiv import weightings
  >>> rule = cr_mogm(weightings.mgda(), decay=0.5)
  >>> present, state = jnp.ones(2, bool), rule.init(2)
  >>> for squares in ([1., 1.], [1., 4.]):  # 0.5, 0.5, then 0.8, 0.2
  ...   weights, state = rule.step(
  ...     jnp.diag(jnp.array(squares)), present, state, None)
  >>> [round(w, 3) for w in weights.tolist()]
  [0.65, 0.35]

  Args:
    then: The rule whose weights are averaged.
    decay: Fraction of the average that stays at each step, in [0, 1). The
      paper lets it grow as the learning rate falls: pass a schedule by
      `optax.inject_hyperparams`.

  Returns:
    A weighting with a `CRMOGMState`, which needs to know n.

  Zhou et al., `On the Convergence of Stochastic Multi-Objective Gradient
  Manipulation and Beyond <https://openreview.net/forum?id=ScwfQ7hdwyP>`_, 2022.
  """
  weighting.check('then', then)
  checks.fraction('decay', decay, one=True)
  decay = _numbers.as_float(decay)

  def step(gram, present, state, key):
    weights, inner = then.step(gram, present, state.then, key)
    kept = weighting.with_extra(present, then.num_extra)
    smooth = jnp.where(
      state.seen, decay * state.averages + (1 - decay) * weights, weights)
    averages = jnp.where(kept, smooth, state.averages)
    return averages, CRMOGMState(averages, state.seen | kept, inner)

  def init(num_gradients):
    size = num_gradients + then.num_extra
    return CRMOGMState(jnp.zeros(size, jnp.float32), jnp.zeros(size, bool),
                       then.init(num_gradients))

  return weighting.Weighting(
    step, init, num_extra=then.num_extra, needs_key=then.needs_key,
    needs_size=True)
