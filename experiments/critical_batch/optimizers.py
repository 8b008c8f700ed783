"""The optimizers of `critical_batch`: tracked on the trunk, then gone on with.
"""

from typing import Any, NamedTuple

import optax
from jax import lax

import gradiv
from experiments.critical_batch.config import Setting


class Measured(NamedTuple):
  """What the trunk hands to its optimizer in place of a gradient.

  Attributes:
    grads: The gradient.
    moments: Of the gradients of the examples of the batch.
  """

  grads: Any
  moments: gradiv.Moments


def of_size(setting: Setting, factor: int, axis_name: gradiv.AxisName
            ) -> optax.GradientTransformation:
  """Build the optimizer of `factor` times the smallest batch, by its rule."""
  make = {'sgd': optax.sgd, 'adam': optax.adam}[setting.optimizer]
  return optax.chain(
    gradiv.aggregate_by_mean(axis_name), make(setting.rate(factor)))


def tracked(optimizer: optax.GradientTransformation,
            axis_name: gradiv.AxisName) -> optax.GradientTransformation:
  """Track the moments of what is `Measured`; its state comes first.

  The axis is that of the one worker there is.
  """
  track = gradiv.track_moments()

  def init_fn(params):
    return track.init(params), optimizer.init(params)

  def update_fn(updates, state, params=None):
    grads, moments = updates
    grads, seen = track.update(
      grads, state[0], params, moments=lax.pmean(moments, axis_name))
    grads, inner = optimizer.update(grads, state[1], params)
    return grads, (seen, inner)

  return optax.GradientTransformation(init_fn, update_fn)


def begun(optimizer: optax.GradientTransformation, opt_state: Any
          ) -> optax.GradientTransformation:
  """Begin with a state that is there already."""
  return optax.GradientTransformation(
    lambda params: opt_state, optimizer.update)


def read(opt_state: Any) -> dict:
  """Flatten what `gradiv.read_moments` says; signals are 1/B_S."""
  reading = gradiv.read_moments(opt_state)
  signal = gradiv.inverse_batch_size_bound
  low, high = reading.interval.of(signal)
  return {'signal': signal(reading.estimate), 'signal_low': low,
          'signal_high': high, 'window': reading.window,
          'at_least': reading.batch_size_at_least,
          'until_known': reading.steps_until_known}


def reading_of(numbers: dict) -> gradiv.Reading:
  """Make the reading again of which `read` took the numbers."""
  of = lambda signal: gradiv.Estimate(signal, 1 - signal)
  return gradiv.Reading(
    estimate=of(numbers['signal']), interval=gradiv.Interval(
      lower=of(numbers['signal_high']), upper=of(numbers['signal_low']),
      is_trusted=numbers['window'] > 0),
    window=numbers['window'], batch_size_at_least=numbers['at_least'],
    steps_until_known=numbers['until_known'], average=of(numbers['signal']),
    last=of(numbers['signal']))
