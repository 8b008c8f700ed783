"""Steps whose learning rate follows a law, with what it predicts on record."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, counting, stateful, trees
from gradiv.diversity import Estimate, read_moments
from gradiv.scaling.adascale import FIELDS

Scalar = jax.typing.ArrayLike


class ScaleByPredictedRateState(NamedTuple):
  """State of `scale_by_predicted_rate`.

  Attributes:
    count: int32, number of steps.
    predicted: float32, the rate that the law predicts for the last step; NaN
      before anything is known.
    used: float32, the rate of the last step.
    moments: State of the tracker, for `gradiv.read_moments`.
    inner: State of the inner transformation.
  """

  count: jax.Array
  predicted: jax.Array
  used: jax.Array
  moments: Any
  inner: Any


def scale_by_predicted_rate(
  track: optax.GradientTransformation,
  inner: optax.GradientTransformation,
  *,
  learning_rate: Scalar | optax.Schedule,
  rule: Callable[[Scalar, Estimate], Scalar],
  field: str = 'estimate',
  follows: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """Multiply the updates of `inner` by −rate, as a law of the noise predicts.

  Use it to choose the rate for another batch size or a delay from what is
  tracked, or, with ``follows=False``, to see what the law would choose beside
  the rate that you use. Both stand in the state.

  Args:
    track: `gradiv.track_moments`, with all of its options.
    inner: The optimizer without its learning rate, such as a chain of
      `gradiv.aggregate_by_mean` and `optax.trace`.
    learning_rate: The rate that works for the reference batch, or a schedule of
      it by the number of steps.
    rule: Function from that rate and the tracked estimate to the predicted
      rate: `online_rate`, the law of SGD with a batch size and a delay, or
      `square_root_rate`, that of Adam, with their other arguments given by
      `functools.partial`.
    field: Field of the `gradiv.Reading` that the rule is given: 'estimate', or
      'average' for the exponential average.
    follows: Whether the predicted rate is used, as soon as there is one; if
      not, `learning_rate` is.

  Raises:
    ValueError: At construction, of a wrong rate or rule; at ``init``, if
      `track` is not a tracker.

  >>> import functools, gradiv
  >>> from gradiv import scaling
  >>> rule = functools.partial(
  ...   scaling.online_rate, reference_batch_size=1, batch_size=2)
  >>> tx = scale_by_predicted_rate(
  ...   gradiv.track_moments(), optax.identity(), learning_rate=.5, rule=rule)
  >>> state = tx.init(jnp.zeros(1))
  >>> moments = gradiv.Moments(2., 1., 4., 1.)  # G = 3, S = 2
  >>> update, state = tx.update(jnp.array([2.]), state, moments=moments)
  >>> round(float(state.predicted), 3)  # 0.5 · (1 + 2/3) / (1 + 2/(3 · 2))
  0.625
  """
  if not callable(learning_rate):
    checks.at_least('learning_rate', learning_rate, 0, one=True)
  checks.choice('field', field, FIELDS)
  if not callable(rule):
    raise ValueError(
      f'rule={rule!r}: must be a function of a rate and an estimate')
  track = checks.transformation('track', track)
  inner = checks.transformation('inner', inner)

  def init_fn(params):
    moments = track.init(params)
    jax.eval_shape(read_moments, moments)
    return ScaleByPredictedRateState(
      count=jnp.zeros((), jnp.int32),
      predicted=jnp.full((), jnp.nan, jnp.float32),
      used=jnp.zeros((), jnp.float32),
      moments=moments,
      inner=inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    trees.check_floating(updates, or_complex=True)
    _, moments = track.update(updates, state.moments, params, **extra_args)
    updates, inner_state = inner.update(
      updates, state.inner, params, **extra_args)
    reading = read_moments(moments)
    whole = reading if reading.whole is None else reading.whole
    given = learning_rate
    if callable(learning_rate):
      given = learning_rate(state.count)
    given = jnp.asarray(given, jnp.float32)
    predicted = jnp.asarray(
      rule(given, getattr(whole, field)), jnp.float32)
    used = given
    if follows:
      used = jnp.where(jnp.isnan(predicted), given, predicted)
    return jax.tree.map(lambda g: trees.times(-used, g), updates), (
      ScaleByPredictedRateState(
        count=counting.increment(state.count), predicted=predicted,
        used=used, moments=moments, inner=inner_state))

  return stateful.transformation(init_fn, update_fn, ScaleByPredictedRateState)

