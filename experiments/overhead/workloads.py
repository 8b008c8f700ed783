"""What the per-example statistics are timed on: networks and random data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import models
from experiments.overhead.sizes import Sizes


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


def network(sizes: Sizes) -> models.Model:
  """Build the model of a workload."""
  return models.build(sizes.model, input_shape=sizes.input_shape,
                      num_classes=sizes.num_classes, **sizes.options)


def build(sizes: Sizes) -> Problem:
  """Draw parameters, and a batch of random examples, from a fixed seed."""
  model = network(sizes)
  rng = np.random.default_rng(0)
  shape = (sizes.batch_size, *sizes.input_shape)
  draw = lambda shape: rng.integers(sizes.num_classes, size=shape, dtype='i')
  if sizes.model in models.TOKEN_MODELS:
    batch = draw(shape), draw(shape)
  else:
    batch = rng.normal(size=shape).astype('f'), draw(sizes.batch_size)

  def loss(params, batch):
    inputs, labels = batch
    return models.cross_entropy(model.apply(params, inputs), labels)

  params = jax.jit(model.init)(jax.random.key(0))
  return Problem(loss, params, jax.device_put(batch))
