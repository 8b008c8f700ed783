"""The networks that the papers train, as pairs of pure functions.

`options` says what there is and imports nothing; all other names are those of
`building`, which imports Flax, at their first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from experiments.models.options import TOKEN_MODELS as TOKEN_MODELS

if TYPE_CHECKING:
  from experiments.models.building import (
    Model as Model,
    Params as Params,
    accuracy as accuracy,
    build as build,
    cross_entropy as cross_entropy,
  )

_OF_BUILDING = ('Model', 'Params', 'accuracy', 'build', 'cross_entropy')


def __getattr__(name: str) -> Any:
  """Import `building` where a name of it is asked for (PEP 562)."""
  if name not in _OF_BUILDING:
    raise AttributeError(f'{__name__} has no {name!r}')
  return getattr(
    importlib.import_module('experiments.models.building'), name)
