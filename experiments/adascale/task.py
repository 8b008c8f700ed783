"""The optimizer of `adascale`, its data, its network and its programs."""

import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import gradiv
from experiments import data, models
from experiments.common import image_task, task


def sgd_by_gain(lane, config, scale: int) -> optax.GradientTransformation:
  """Build SGD whose gain is the lane's or, where that is 0, AdaScale's."""
  size, axis = config.batch_size, config.workers(scale).axis_name
  return gradiv.scale_by_diversity(
    gradiv.track_moments(
      axis, batch_size=size, decay=1 - scale / config.window),
    gradiv.aggregate_by_mean(axis), batch_size=size, scale=scale,
    learning_rate=optax.cosine_decay_schedule(lane['rate'], config.steps),
    min_gain=lane['gain'],
    max_gain=jnp.where(lane['gain'] > 0, lane['gain'], scale),
    end=config.steps, power=lane['power'], field='average')


def exact_gains(config, runs: xr.Dataset) -> xr.Dataset:
  """Compute AdaScale's 'gain' [scale, ...] from the exact moments of runs."""
  estimate = gradiv.Estimate(runs['sq_norm'].values, runs['variance'].values)
  gains = [gradiv.adascale_gain(estimate, batch_size=config.batch_size, scale=s)
           for s in config.scales]
  return xr.Dataset({
    'gain': (('scale', *runs['sq_norm'].dims), np.stack(gains))})


class Task:
  """Images, and a network to train on batches of any scale."""

  def __init__(self, config):
    self.config = config
    train, test = (task.load_images(config, s) for s in ('train', 'test'))
    self.arrays = {'train': train.arrays, 'test': test.arrays}
    self.size = len(train)
    self.network = image_task.build(
      config, train.arrays['image'], train.num_classes)

  def program(self, scale: int, lanes: dict):
    """Train lanes of some 'gain', 'power', 'rate', 'seed' on `scale` workers.
    """
    batch_size = scale * self.config.batch_size
    return task.program(
      self.network.model, {name: lanes[name] for name in (
        'gain', 'power', 'rate', 'seed')},
      arrays=self.arrays, draw=lambda seed, steps: data.order(
        seed, steps, batch_size, self.size, sampling='replacement'),
      make_optimizer=lambda lane: sgd_by_gain(lane, self.config, scale),
      batch=lambda arrays, lane, rows: task.pick(arrays['train'], rows),
      loss=self.network.loss, evaluate=self.evaluate,
      read=lambda state: {'taken': state.num_steps})

  def evaluate(self, arrays, lane, params):
    """Compute the training loss, G and S of its gradient, the test accuracy."""
    del lane
    network, test = self.network, arrays['test']
    loss, _, moments = gradiv.example_moments(
      lambda *args: network.loss(*args, None))(params, arrays['train'])
    exact = gradiv.estimate(moments, num_examples=self.size)._asdict()
    logits = network.model.apply(params, network.standardize(test['image']))
    return exact | {
      'loss': loss, 'accuracy': models.accuracy(logits, test['label'])}
