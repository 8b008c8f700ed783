"""The data and the network of the study `network`, and its programs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data, models
from experiments.common import image_task, task
from experiments.critical_parameters.config import Config
from experiments.engine import trainer


class Task:
  """Images to classify, and a network to train on delayed gradients."""

  def __init__(self, config: Config):
    self.config = config
    examples = task.load_images(config, 'train')
    config.check_examples(len(examples))
    self.arrays = examples.gather(np.arange(config.train_examples))
    self.standardize, self.model, self.loss = image_task.build(
      config, self.arrays['image'], examples.num_classes)

  def program(
    self, batch_size: int, staleness: int, lanes: dict[str, np.ndarray], *,
    is_tracked: bool = False,
  ) -> trainer.Program:
    """Train lanes with one batch size and one delay.

    The mean gradient of the workers is that of the batch: only tracking needs
    more than one worker.

    Args:
      batch_size: b, of all workers together.
      staleness: τ, the age of gradients in steps.
      lanes: 'rate' and 'seed' [L].
      is_tracked: Whether to track the moments of the workers' gradients.
    """
    config = self.config
    axis = config.workers(config.num_workers if is_tracked else 1).axis_name
    track = [gradiv.track_moments(
      axis, batch_size=batch_size // config.num_workers, decay=config.decay)]

    def make_optimizer(lane):
      return optax.chain(
        *(track if is_tracked else ()), gradiv.aggregate_by_mean(axis),
        gradiv.delay_updates(staleness), optax.sgd(lane['rate']))

    def read(opt_state):
      return (gradiv.read_moments(opt_state).average._asdict()
              if is_tracked else {})

    return task.program(
      self.model, lanes, arrays=self.arrays,
      draw=lambda seed, steps: data.order(
        seed, steps, batch_size, config.train_examples,
        sampling='replacement'),
      make_optimizer=make_optimizer,
      batch=lambda arrays, lane, rows: task.pick(arrays, rows),
      loss=self.loss, evaluate=self.evaluate, read=read)

  def evaluate(self, arrays, lane, params) -> dict[str, jax.Array]:
    """Compute the loss and the accuracy over the whole training set."""
    del lane
    logits = self.model.apply(params, self.standardize(arrays['image']))
    label = arrays['label']
    return {'loss': jnp.mean(models.cross_entropy(logits, label)),
            'accuracy': jnp.mean(models.accuracy(logits, label))}
