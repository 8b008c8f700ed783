"""What the tasks of papers that train on images begin with."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments import data, models
from experiments.common import flags, task


class Network(NamedTuple):
  """How images are standardized, the network, and (params, batch, key) -> loss.
  """

  standardize: Callable[[Any], Any]
  model: models.Model
  loss: Callable[..., Any]


def build(config: flags.Config, images: np.ndarray, num_classes: int, *,
          augment: bool = False) -> Network:
  """Build --model for images [n, height, width, channels] to train on."""
  mean, std = data.channel_statistics(images)
  standardize = functools.partial(data.standardize, mean=mean, std=std)
  model = task.build_model(config, images.shape[1:], num_classes)
  return Network(standardize, model, task.image_loss(
    model, standardize, augment=augment))
