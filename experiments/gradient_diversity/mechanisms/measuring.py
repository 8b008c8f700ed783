"""Measures B_S of a trained network under each mechanism."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data, models
from experiments.engine import trainer
from experiments.gradient_diversity.mechanisms import arms
from gradiv import perturbations


def measure(config, task, params, seed: int) -> dict[str, np.ndarray]:
  """Measure each setting of `arms.list_cells`, and predict it.

  Args:
    config: The flags.
    task: The data and the network.
    params: Of the trained network.
    seed: Of the batches and of all draws.

  Returns:
    'sq_norm' and 'variance' [cell, batch], which estimate ‖∇F‖² and tr Σ, and
    'predicted' [cell], the B_S of the formula.
  """
  n, size = config.measured_examples, config.reference_batch_size
  grads = _gradients(task, params, n)
  exact = gradiv.estimate(
    jax.vmap(lambda g: gradiv.worker_moments(g, 'examples'),
             axis_name='examples', out_axes=None)(grads), num_examples=n)
  num_parameters = sum(g[0].size for g in jax.tree.leaves(grads))
  found, first = {'sq_norm': [], 'variance': [], 'predicted': []}, 0
  for mechanism in arms.mechanisms(config):
    strengths = mechanism.strengths
    squares = [_quantized_square(mechanism, grads, s) for s in strengths]
    for draws in mechanism.draws:
      # Each cell has batches of its own, so that errors are independent.
      count = len(strengths) * config.measured_batches
      rows = data.order(seed, range(first, first + count), size, n,
                        sampling='replacement')
      first += count
      seen = estimate(
        grads, mechanism, draws, rows.reshape(len(strengths), -1, size),
        trainer.key_for(seed, f'{draws} {mechanism.name}'))
      for name, values in zip(('sq_norm', 'variance'), seen):
        found[name].extend(values)
      found['predicted'].extend(
        float(mechanism.bound(exact, s, num_parameters, n, q, draws))
        for s, q in zip(strengths, squares))
  return {name: np.array(values) for name, values in found.items()}


def _gradients(task, params, count):
  """Compute the gradients [n, ...] of the first examples, one by one."""
  def gradient(image, label):
    loss = lambda p: models.cross_entropy(
      task.model.apply(p, task.standardize(image[None])), label[None])
    return jax.grad(loss)(params)

  return jax.jit(jax.vmap(gradient))(
    *(jnp.asarray(task.arrays[name][:count]) for name in ('image', 'label')))


def _quantized_square(mechanism, grads, levels):
  """Predict the mean ‖g‖² of rounded gradients; None for other mechanisms."""
  if mechanism.kind != 'quantize':
    return None
  return jax.vmap(
    lambda g: perturbations.quantized_sq_norm(g, levels))(grads).mean()


def estimate(
  grads: optax.Updates, mechanism: arms.Mechanism, draws: str,
  rows: np.ndarray, key: jax.Array,
) -> tuple[np.ndarray, np.ndarray]:
  """Estimate ‖∇F‖² and tr Σ of noisy gradients: [strengths, batches] each.

  Args:
    grads: [n, ...], of each example.
    mechanism: What changes them at random.
    draws: 'tied' to the example, 'fresh', or 'shared' by the batch.
    rows: [strengths, batches, b], the examples of each batch; a batch may hold
      an example twice.
    key: Of the draws.
  """
  axis = 'examples'

  def measure_one(i, strength, rows):
    # Each strength draws anew, so that errors are independent.
    tx = mechanism.make(strength, jax.random.fold_in(key, i),
                        axis if draws == 'fresh' else None)

    def one(state, place):
      g = jax.tree.map(lambda x: x[place], grads)
      extra = {'example_index': place} if draws == 'tied' else {}
      noisy, state = tx.update(g, state, **extra)
      return gradiv.worker_moments(noisy, axis), state

    def step(state, places):
      moments, state = jax.vmap(
        one, (None, 0), axis_name=axis, out_axes=None)(state, places)
      return state, gradiv.estimate(moments)

    start = tx.init(jax.tree.map(lambda g: g[0], grads))
    return jax.lax.scan(step, start, rows)[1]

  strengths = jnp.asarray(mechanism.strengths, jnp.float32)
  seen = jax.jit(lambda *both: jax.lax.map(
    lambda each: measure_one(*each), both))(
      jnp.arange(len(strengths)), strengths, rows)
  return np.asarray(seen.sq_norm, float), np.asarray(seen.variance, float)
