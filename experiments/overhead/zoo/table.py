"""How a model is entered into the zoo."""

import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Problem(NamedTuple):
  """A model with a loss and data.

  Attributes:
    loss: Loss of one example, (params, example) -> a scalar.
    params: The parameters.
    batch: The examples.
  """

  loss: Callable[[Any, Any], jax.Array]
  params: Any
  batch: Any


class Model(NamedTuple):
  """A row of the zoo.

  Attributes:
    name: Name of the model.
    package: The package that it comes from.
    make: () -> `Problem`; imports the package.
  """

  name: str
  package: str
  make: Callable[[], Problem]

  @property
  def source(self) -> str:
    """The package and its version."""
    return f'{self.package} {importlib.metadata.version(self.package)}'


class Models(list[Model]):
  """The rows, each a function decorated with ``@models.model(package)``."""

  def model(self, package: str) -> Callable:
    def enter(make):
      self.append(Model(make.__name__, package, make))
      return make

    return enter


MODELS = Models()


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Return the mean cross entropy over positions, if there are any."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.take_along_axis(log_p, labels[..., None], -1))
