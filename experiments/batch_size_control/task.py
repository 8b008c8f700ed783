"""The optimizer of `batch_size_control`, its network and its programs."""

import jax.numpy as jnp
import optax

import gradiv
from experiments import data, engine, models
from experiments.common import image_task, task
from gradiv.scaling import controllers


def controller(arm: str, config):
  """Build the controller of an arm."""
  options = {'ladder': controllers.Ladder(
    config.batch_sizes[0], config.batch_sizes[-1])}
  return {
    'noise_scale': lambda: controllers.NoiseScale(**options),
    'four': lambda: controllers.NoiseScale(multiple=4., **options),
    'norm_test': lambda: controllers.NormTest(**options),
    'divebatch': lambda: controllers.DiveBatch(delta=0.5, **options),
  }[arm]()


def adascale(config, batch_size: int, length) -> optax.GradientTransformation:
  """Build SGD with the gain of AdaScale, along a cosine of some length.

  A controlled run overrides the batch size.
  """
  axis, first = config.workers().axis_name, config.batch_sizes[0]
  return gradiv.scale_by_diversity(
    gradiv.track_moments(axis, batch_size=batch_size // config.num_workers,
                         decay=config.decay),
    gradiv.aggregate_by_mean(axis), batch_size=first, scale=batch_size / first,
    learning_rate=lambda progress: config.learning_rate / 2 * (
      1 + jnp.cos(jnp.pi * progress / length)),
    end=length, field='average')


class Task:
  """Images, and a network to train on batches of any size."""

  def __init__(self, config):
    self.config = config
    train, test = (task.load_images(config, s) for s in ('train', 'test'))
    self.arrays, self.size = {
      'train': train.arrays, 'test': test.arrays}, len(train)
    self.network = image_task.build(
      config, train.arrays['image'], train.num_classes)
    self._caches = {}

  def program(self, lanes: dict, batch_size: int,
              arm: str | None = None) -> engine.Program:
    """Train lanes of some 'seed' and 'length'; one, where an arm controls it.
    """
    network = self.network
    control = arm and engine.Control(controller(arm, self.config), None)
    return task.program(
      network.model, {name: lanes[name] for name in ('seed', 'length')},
      arrays=self.arrays,
      draw=lambda seed, steps: data.order(
        seed, steps, batch_size, self.size, sampling='replacement'),
      make_optimizer=lambda lane: adascale(
        self.config, batch_size, lane['length']),
      batch=lambda arrays, lane, rows: task.pick(arrays['train'], rows),
      loss=network.loss, evaluate=self.evaluate, control=control,
      cache=self._caches.setdefault((batch_size, arm), {}),
      read=lambda state: {
        'taken': state.num_steps, 'progress': state.progress})

  def evaluate(self, arrays, lane, params):
    """Compute the training loss, its exact noise scale, the test accuracy."""
    del lane
    network, test = self.network, arrays['test']
    loss, _, moments = gradiv.example_moments(
      lambda *args: network.loss(*args, None))(params, arrays['train'])
    logits = network.model.apply(params, network.standardize(test['image']))
    return {
      'loss': loss, 'accuracy': models.accuracy(logits, test['label']),
      'noise_scale': gradiv.noise_scale(
        gradiv.estimate(moments, num_examples=self.size))}
