"""The data and networks of `critical_batch`, and its programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from experiments import data, models
from experiments.common import flags, image_task, task
from experiments.critical_batch import optimizers
from experiments.engine import trainer


class Task:
  """One domain: a training set, a network, and what trains it at any batch."""

  def __init__(self, config, domain: str):
    self.config, self.setting = config, config.setting(domain)
    self.train, self.model, self.apply = (
      self._images() if domain == 'images' else self._text())
    self.size = len(self.train['target'])
    name = 'eval_examples' if domain == 'images' else 'text_eval_examples'
    count = self.setting.eval_examples or self.size
    flags.check(count, name, f'at most the {self.size} to train on',
                lambda n: n <= self.size)
    evenly = np.linspace(0, self.size, count, endpoint=False, dtype=int)
    self.arrays = {'train': self.train,
                   'measured': task.pick(self.train, evenly)}

  def _images(self):
    examples = task.load_images(self.config, 'train')
    rows = examples.gather(np.arange(len(examples)))
    network = image_task.build(
      self.config, rows['image'], examples.num_classes)
    train = {'input': rows['image'], 'target': rows['label']}
    return train, network.model, lambda params, image: network.model.apply(
      params, network.standardize(image))

  def _text(self):
    config = self.config
    examples = data.load(f'pydoc_topics/length{config.text_length}', 'train',
                         data_dir=config.data_dir or None)
    tokens = examples.gather(np.arange(len(examples)))['tokens']
    model = task.build_model(
      config, (config.text_length,), data.VOCAB_SIZE, name=config.text_model,
      options='text_model_options')
    train = {'input': tokens[:, :-1], 'target': tokens[:, 1:]}
    return train, model, lambda params, x: model.apply(
      params, x.astype(jnp.int32))

  def loss(self, params, batch, key=None):
    """Average the cross entropy over a batch."""
    del key
    logits = self.apply(params, batch['input'])
    return models.cross_entropy(logits, batch['target'].astype(jnp.int32))

  def measured_gradient(self, lane, params, batch, key):
    """Compute loss and gradient of a batch, with `Moments` of its examples."""
    del lane, key
    loss, grads, moments = gradiv.example_moments(self.loss)(params, batch)
    return loss, optimizers.Measured(grads, moments)

  def program(self, factor: int, seeds: np.ndarray, first: np.ndarray, *,
              start: dict | None = None, is_tracked: bool = False
              ) -> trainer.Program:
    """Train lanes at `factor` times the smallest batch.

    Whatever the batch, they see the same examples in the same order.

    Args:
      factor: Of the batch size.
      seeds: [L].
      first: [L], the steps at the smallest batch that were taken before.
      start: The state to go on from, lanes leading; None begins anew.
      is_tracked: Whether to track the moments of the examples.
    """
    batch_size = factor * self.setting.batch_size
    axis_name = self.config.workers().axis_name

    def make_optimizer(lane):
      optimizer = optimizers.of_size(self.setting, factor, axis_name)
      if is_tracked:
        optimizer = optimizers.tracked(optimizer, axis_name)
      return optimizer if start is None else optimizers.begun(
        optimizer, lane['start']['opt_state'])

    def draw(stream, steps):
      seed, before = stream
      return data.order(seed, steps + before // factor, batch_size, self.size,
                        sampling='replacement')

    tracking = {'gradient': self.measured_gradient, 'read': optimizers.read}
    made = task.program(
      self.model, {'seed': seeds} | ({} if start is None else {'start': start}),
      arrays=self.arrays, draw=draw, streams=list(zip(
        np.asarray(seeds).tolist(), np.asarray(first).tolist())),
      make_optimizer=make_optimizer,
      batch=lambda arrays, lane, rows: task.pick(arrays['train'], rows),
      loss=self.loss, evaluate=self.evaluate,
      **(tracking if is_tracked else {}))
    return made if start is None else dataclasses.replace(
      made, init=lambda lane: lane['start']['params'])

  def evaluate(self, arrays, lane, params):
    """Compute the training loss."""
    del lane
    return {'loss': self.loss(params, arrays['measured'])}

  def untracked(self, state: dict) -> dict:
    """Leave the tracked moments out of a state of the trunk."""
    return state | {'opt_state': state['opt_state'][1]}

  def joined(self, states: list[dict]) -> dict:
    """Put the lanes of states behind one another."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *states)

  def pick_lanes(self, state: dict, rows: list[int]) -> dict:
    """Pick lanes of a state."""
    return jax.tree.map(lambda x: x[np.array(rows)], state)


def of_domains(config) -> dict[str, Task]:
  """Make the task of each domain."""
  return {domain: Task(config, domain) for domain in config.domains}
