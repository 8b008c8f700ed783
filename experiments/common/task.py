"""What tasks share: data and networks from flags, and programs of lanes."""

from __future__ import annotations  # Flax waits until a network is built

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, models
from experiments.common import flags
from experiments.common.inputs import load_images as load_images
from experiments.engine import trainer


def build_model(config: flags.Config, input_shape: tuple[int, ...],
                num_classes: int, *, name: str | None = None,
                options: str = 'model_options') -> models.Model:
  """Build --model with the sizes of a flag; `name` is another network's.

  Raises:
    UsageError: Where there is no such network, or it has no such option.
  """
  sizes = flags.options(config, options)
  try:
    return models.build(name or config.model, input_shape=input_shape,
                        num_classes=num_classes, **sizes)
  except (TypeError, ValueError) as error:
    raise flags.UsageError(
      f'--model={name or config.model!r} with --{options}='
      f'{getattr(config, options)!r}: {error}') from error


def image_loss(model: models.Model, prepare: Callable, *, augment: bool
               ) -> Callable:
  """Build the mean cross entropy of a batch: (params, batch, key) -> loss.

  Args:
    model: The network.
    prepare: Standardizes images.
    augment: Whether to crop and flip at random, where there is a key.
  """
  def loss(params, batch, key):
    image = batch['image']
    if augment and key is not None:
      image = data.augment_cifar(key, image)
    logits = model.apply(params, prepare(image))
    return models.cross_entropy(logits, batch['label'])

  return loss


def score(model: models.Model, prepare: Callable, params: Any,
          examples: Mapping[str, jax.Array], *, at_once: int
          ) -> dict[str, jax.Array]:
  """Average the loss and the accuracy over examples of any number.

  Args:
    model: The network.
    prepare: Standardizes images.
    params: Of one lane.
    examples: Arrays 'image' [n, ...] and 'label' [n].
    at_once: How many examples to evaluate at once.
  """
  def one(example):
    logits = model.apply(params, prepare(example['image']))
    label = example['label']
    return {'loss': models.cross_entropy(logits, label),
            'accuracy': models.accuracy(logits, label)}

  size = min(at_once, len(examples['label']))
  return jax.tree.map(
    jnp.mean, jax.lax.map(one, dict(examples), batch_size=size))


def test_accuracy(model: models.Model, prepare: Callable, params: Any,
                  examples: data.Examples, *, at_once: int) -> np.ndarray:
  """Return the accuracy [lanes] of params with a leading axis of lanes."""
  predict = jax.jit(lambda params, images: jax.lax.map(
    lambda p: model.apply(p, prepare(images)).argmax(-1), params))
  count, right = len(examples), 0
  for rows in np.array_split(np.arange(count), -(-count // at_once)):
    batch = examples.gather(rows)
    predicted = np.asarray(predict(params, batch['image']))
    right += (predicted == batch['label'][None]).sum(1)
  return right / count


def program(
  model: models.Model,
  lanes: dict[str, np.ndarray],
  *,
  arrays: Any,
  draw: Callable[[Hashable, np.ndarray], np.ndarray],
  streams: list[Hashable] | None = None,
  **rest: Any,
) -> trainer.Program:
  """Build a program in which lanes of one stream share their batches.

  Args:
    model: The network; each lane starts from parameters of its own seed.
    lanes: Hyperparameters {name: [L, ...]}, 'seed' among them.
    arrays: What `batch` and `evaluate` see, on the device.
    draw: Takes a stream and steps [K] and returns rows [K, batch size].
    streams: The stream [L] of each lane; by default its seed.
    **rest: All else that `trainer.Program` takes.
  """
  of_lane = lanes['seed'].tolist() if streams is None else streams
  distinct = sorted(set(of_lane))
  typed = lanes | {
    'seed': np.asarray(lanes['seed'], np.uint32),
    'order': np.array([distinct.index(stream) for stream in of_lane])}
  return trainer.Program(
    lanes=jax.tree.map(_narrow, typed),
    data=jax.tree.map(jnp.asarray, arrays),
    init=lambda lane: model.init(trainer.key_for(lane['seed'], 'init')),
    fetch=lambda steps: np.stack([draw(one, steps) for one in distinct]),
    **rest)


def _narrow(x: np.ndarray) -> jax.Array:
  """Put an array on the device, float64 as float32."""
  x = np.asarray(x)
  return jnp.asarray(x.astype(np.float32) if x.dtype == np.float64 else x)


def pick(examples: Any, rows: Any) -> Any:
  """Pick rows of each array of a tree."""
  return jax.tree.map(lambda x: x[rows], examples)
