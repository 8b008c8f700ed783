"""What the per-example statistics are timed on: five networks, random data."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import models


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of one workload; `options` are those of the model."""

  batch_size: int
  input_shape: tuple[int, ...]
  num_classes: int
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


WORKLOADS: dict[str, Sizes] = {
  'mlp': Sizes(128, (784,), 10, {'hidden': (512, 512)}),
  'cnn': Sizes(64, (28, 28, 1), 10),
  'resnet18': Sizes(8, (32, 32, 3), 10),
  'lstm': Sizes(32, (64,), 64),
  'transformer': Sizes(16, (128,), 256),
}


class Problem(NamedTuple):
  """A loss and what it is taken of.

  ``loss(params, example)`` of one example is a scalar, and of a batch of them,
  in one pass, the mean.
  """

  loss: Callable[[models.Params, Any], jax.Array]
  params: models.Params
  batch: tuple[jax.Array, jax.Array]

  @property
  def num_examples(self) -> int:
    return len(self.batch[1])

  @property
  def num_parameters(self) -> int:
    return sum(x.size for x in jax.tree.leaves(self.params))


def resized(name: str, changes: dict[str, Any]) -> Sizes:
  """Take the sizes of a workload, but for `changes`; others go to the model.

  >>> resized('mlp', {'batch_size': 2, 'hidden': (4,)})
  Sizes(batch_size=2, input_shape=(784,), num_classes=10,
        options={'hidden': (4,)})

  Raises:
    ValueError: On a size that the model, or a batch, cannot have.
  """
  own = {field.name for field in dataclasses.fields(Sizes)} - {'options'}
  options = {k: v for k, v in changes.items() if k not in own}
  sizes = dataclasses.replace(
    WORKLOADS[name], options=WORKLOADS[name].options | options,
    **{k: v for k, v in changes.items() if k in own})
  if not isinstance(sizes.batch_size, int) or sizes.batch_size < 1:
    raise ValueError(f'batch_size is {sizes.batch_size!r}; allowed for '
                     f'{name!r}: an integer from 1 on')
  network(name, sizes)
  return sizes


def network(name: str, sizes: Sizes) -> models.Model:
  """Build the model of a workload."""
  return models.build(name, input_shape=sizes.input_shape,
                      num_classes=sizes.num_classes, **sizes.options)


def build(name: str, sizes: Sizes) -> Problem:
  """Draw parameters, and a batch of random examples, from a fixed seed."""
  model = network(name, sizes)
  rng = np.random.default_rng(0)
  shape = (sizes.batch_size, *sizes.input_shape)
  draw = lambda shape: rng.integers(sizes.num_classes, size=shape, dtype='i')
  if name in models.TOKEN_MODELS:
    batch = draw(shape), draw(shape)
  else:
    batch = rng.normal(size=shape).astype('f'), draw(sizes.batch_size)

  def loss(params, batch):
    inputs, labels = batch
    return models.cross_entropy(model.apply(params, inputs), labels)

  params = jax.jit(model.init)(jax.random.key(0))
  return Problem(loss, params, jax.device_put(batch))
