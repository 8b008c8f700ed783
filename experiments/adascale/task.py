"""The optimizer of `adascale`, its data and network, and its programs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments import data, models
from experiments.common import task


class GainState(NamedTuple):
  """What `sgd_by_gain` keeps: an inner state, Σ gains, and the steps taken."""

  inner: Any
  progress: jax.Array
  taken: jax.Array


def sgd_by_gain(
  inner: optax.GradientTransformation, gain: Callable, schedule: Callable,
  end: int,
) -> optax.GradientTransformation:
  """Step with gain · schedule(Σ gains) until Σ gains = end, then stand still.

  Args:
    inner: Aggregates the workers' gradients.
    gain: Takes the state of `inner`; 1 is plain SGD.
    schedule: Takes scale-invariant iterations, the sum of the gains so far.
    end: The last of them; the last gain is cut to reach it.
  """
  def init_fn(params):
    zero = jnp.zeros((), jnp.float32)
    return GainState(inner.init(params), zero, zero)

  def update_fn(updates, state, params=None):
    updates, kept = inner.update(updates, state.inner, params)
    left = end - state.progress
    r = jnp.minimum(gain(kept), left)
    rate = r * schedule(state.progress)
    return jax.tree.map(lambda g: -rate * g, updates), GainState(
      kept, jnp.where(r < left, state.progress + r, end), state.taken + (r > 0))

  return optax.GradientTransformation(init_fn, update_fn)


def make_optimizer(lane: dict, *, config, scale: int, axis_name
                   ) -> optax.GradientTransformation:
  """Build SGD with the gain of the lane or, where that is 0, AdaScale's."""
  inner = optax.chain(
    gradiv.track_moments(axis_name, batch_size=config.batch_size,
                         decay=max(1 - scale / config.window, 0)),
    gradiv.aggregate_by_mean(axis_name))

  def gain(state):
    tracked = gradiv.adascale_gain(
      gradiv.read_moments(state).average, batch_size=config.batch_size,
      scale=scale)
    return jnp.where(lane['gain'] > 0, lane['gain'], tracked)

  return sgd_by_gain(
    inner, gain, optax.cosine_decay_schedule(lane['rate'], config.steps),
    config.steps)


class Task:
  """Images, and a network to train on batches of any scale."""

  def __init__(self, config):
    self.config = config
    train, test = (task.load_images(config, split)
                   for split in ('train', 'test'))
    self.size = len(train)
    self.arrays = {'train': train.arrays, 'test': test.arrays}
    mean, std = data.channel_statistics(train.arrays['image'])
    self.standardize = functools.partial(data.standardize, mean=mean, std=std)
    self.model = task.build_model(
      config, train.arrays['image'].shape[1:], train.num_classes)
    self.loss = task.image_loss(self.model, self.standardize, augment=False)

  def program(self, scale: int, lanes: dict):
    """Train lanes with 'gain', 'rate' and 'seed' at one scale."""
    config = self.config
    lanes = {name: lanes[name] for name in ('gain', 'rate', 'seed')}
    return task.program(
      self.model, lanes, arrays=self.arrays,
      draw=lambda seed, steps: data.order(
        seed, steps, scale * config.batch_size, self.size,
        sampling='replacement'),
      make_optimizer=functools.partial(
        make_optimizer, config=config, scale=scale,
        axis_name=config.workers(scale).axis_name),
      batch=lambda arrays, lane, rows: task.pick(arrays['train'], rows),
      loss=self.loss, evaluate=self.evaluate,
      read=lambda state: {'progress': state.progress, 'taken': state.taken})

  def evaluate(self, arrays, lane, params):
    """Compute the training loss, G and S of its gradient, the test accuracy."""
    del lane
    loss, _, moments = gradiv.example_moments(
      lambda params, example: self.loss(params, example, None))(
        params, arrays['train'])
    exact = gradiv.estimate(moments, num_examples=self.size)
    logits = self.model.apply(params, self.standardize(arrays['test']['image']))
    return {'loss': loss, 'sq_norm': exact.sq_norm, 'variance': exact.variance,
            'accuracy': models.accuracy(logits, arrays['test']['label'])}
