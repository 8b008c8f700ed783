"""A training step with one transformation or metric more than the plain one.

The plain step averages the gradients of the workers and takes a step of Adam.
A row puts something in front of the mean, in its place, or around Adam.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import gradiv
from gradiv import weightings

AXIS = 'workers'
NUM_WORKERS, BATCH_SIZE = 8, 4
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Row:
  """A training step.

  Attributes:
    chain: Makes the optimizer: exchange of gradients included.
    about: The public functions that the row is about.
    metric: (gradients, optimizer's state, parameters) -> what is measured on
      the side.
    is_own: Whether each worker keeps parameters and state of its own.
    extra: parameters -> arguments of the update, by name.
  """

  chain: Callable[[], optax.GradientTransformation]
  about: tuple[Callable, ...] = ()
  metric: Callable[[Any, Any, Any], Any] | None = None
  is_own: bool = False
  extra: Callable[[Any], dict[str, Any]] = lambda params: {}


def mean() -> optax.GradientTransformation:
  """Average the gradients of the workers."""
  return gradiv.aggregate_by_mean(AXIS)


def plain() -> optax.GradientTransformation:
  """Return the optimizer of the plain step."""
  return optax.chain(mean(), optax.adam(RATE))


def measured(about: Callable, metric: Callable) -> Row:
  """Measure something beside the plain step."""
  return Row(plain, (about,), metric)


def before(
  about: Callable, *args, is_own: bool = False, is_drawn: bool = False, **kwargs
) -> Row:
  """Put `about` in front of the mean; `is_drawn`: it takes a key."""
  return Row(lambda: optax.chain(
    about(*args, **kwargs, **_key(is_drawn)), plain()), (about,),
    is_own=is_own)


def wire(about: Callable, *args, is_drawn: bool = False, **kwargs) -> Row:
  """Put `about` in place of the mean; `is_drawn`: it takes a key."""
  return Row(lambda: optax.chain(
    about(*args, **kwargs, **_key(is_drawn)), optax.adam(RATE)), (about,))


def weighed(weighting: weightings.Weighting, **kwargs) -> Row:
  """Put a weighted sum in place of the mean."""
  return wire(gradiv.aggregate_by_weights, weighting, AXIS, **kwargs)


def mixed(about: Callable, *args, **kwargs) -> Row:
  """Let each worker step by itself, and then mix."""
  return Row(lambda: optax.chain(
    optax.adam(RATE), about(*args, axis_name=AXIS, **kwargs)), (about,),
    is_own=True)


def _key(is_drawn):
  # Made late: an array would start jax before its devices are set up.
  return {'key': jax.random.key(0)} if is_drawn else {}
