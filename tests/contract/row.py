"""What one row of the table says about a public transformation."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import gradiv

KINDS = ('wire', 'before', 'own', 'alone')


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A public transformation with its arguments, and what it claims.

  Attributes:
    name: Name of the row: that of the transformation, and of its variant.
    factory: The transformation, called by keywords.
    options: Arguments that stay fixed while training.
    numbers: Arguments that may be scheduled or injected: all its floats.
    fixed: Names of floats that cannot be scheduled, as they decide shapes.
    kind: Where it stands, and what differs from worker to worker:
      'wire', in place of the mean: the gradients only;
      'before' the wire: the gradients and the updates;
      'own': the gradients, updates, parameters and the state;
      'alone': there are no workers.
    covers: The public functions that the row is about; by default the factory.
    needs: params -> extra arguments of `update`.
    composes: Whether it may see a part of the tree: its extra arguments are
      not trees.
    formula_only: Whether it differs from another row in a formula alone: the
      dear tests of everything around the formula are left to that row. Those
      of a weighting's own are in tests/gradiv/weightings.
    permutes: Does not care about the order of the workers.
    scales: Gives c times the update for c times the gradients, c > 0.
    flips: And for c < 0.
    gain: Gives `gain` g where all gradients are g; None where it does not.
    leaves_out: Acts as if a worker whose gradient is not finite was not there.
    rtol: For permutations, scalings and fewer workers.
  """

  name: str
  factory: Callable[..., optax.GradientTransformation]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  numbers: dict[str, float] = dataclasses.field(default_factory=dict)
  fixed: tuple[str, ...] = ()
  kind: str = 'wire'
  covers: tuple[Callable, ...] = ()
  needs: Callable[[Any], dict[str, Any]] = lambda params: {}
  composes: bool = True
  formula_only: bool = False
  permutes: bool = True
  scales: bool = True
  flips: bool = True
  gain: float | None = 1.0
  leaves_out: bool = True
  rtol: float = 1e-4

  def __post_init__(self):
    assert self.kind in KINDS, self.kind

  @property
  def aggregates(self) -> bool:
    """Whether every worker gets the same update."""
    return self.kind == 'wire'

  def arguments(self, axis: Any) -> dict[str, Any]:
    """Return the keyword arguments, without the numbers."""
    takes_axis = self.kind != 'alone' and 'axis_name' in inspect.signature(
      self.factory).parameters
    return self.options | ({'axis_name': axis} if takes_axis else {})

  def make(self, axis: Any = 'workers') -> optax.GradientTransformation:
    """Create the transformation for the workers of an axis."""
    return self.factory(**self.arguments(axis), **self.numbers)

  def static_args(self) -> tuple[str, ...]:
    """Name what `optax.inject_hyperparams` would take for a number."""
    defaults = {
      name: parameter.default for name, parameter
      in inspect.signature(self.factory).parameters.items()
      if parameter.default is not inspect.Parameter.empty}
    looks_injectable = lambda x: callable(x) or isinstance(
      x, (int, float, jax.Array, np.ndarray)) and not isinstance(x, bool)
    given = defaults | self.options
    return tuple(
      name for name, value in given.items()
      if name not in self.numbers and looks_injectable(value))


def by_keywords(factory: Callable, names: tuple[str, ...]) -> Callable:
  """Say the names of the keywords that a factory takes."""
  keyword = inspect.Parameter.KEYWORD_ONLY
  factory.__signature__ = inspect.Signature(
    [inspect.Parameter(x, keyword) for x in names])
  return factory


def weighed(
  name: str, weighting: Callable, numbers: dict[str, float] | None = None, *,
  kwargs: dict[str, Any] | None = None, options: dict[str, Any] | None = None,
  **claims: Any,
) -> Row:
  """Make a row of `aggregate_by_weights` with one weighting.

  Args:
    name: Name of the row.
    weighting: Function that makes the weighting.
    numbers: Its floats.
    kwargs: Its other arguments.
    options: Other arguments of `aggregate_by_weights`.
    **claims: Further attributes of the row.
  """
  numbers, kwargs, options = numbers or {}, kwargs or {}, options or {}

  def factory(axis_name, **given):
    around = {x: given.pop(x) for x in options}
    return gradiv.aggregate_by_weights(weighting(**given), axis_name, **around)

  names = ('axis_name', *kwargs, *options, *numbers)
  return Row(name, by_keywords(factory, names), kwargs | options, numbers,
             covers=(gradiv.aggregate_by_weights, weighting),
             **{'formula_only': True} | claims)
