"""Measures B_S of trained networks under each mechanism."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments import data, models
from experiments.engine import trainer
from experiments.gradient_diversity.mechanisms import acting, arms
from gradiv import perturbations


def measure(config, task, params, seeds) -> dict[str, np.ndarray]:
  """Measure each setting of `arms.list_cells` on each network, and predict it.

  Args:
    config: The flags.
    task: The data and the network.
    params: Of trained networks, with a leading axis of networks.
    seeds: By network, of its batches and of all draws.

  Returns:
    'sq_norm' and 'variance' [network, cell, batch], which estimate ‖∇F‖² and
    tr Σ, and 'predicted' [network, cell], the B_S of the formula.
  """
  def gradient(params, image, label):
    loss = lambda p: models.cross_entropy(
      task.model.apply(p, task.standardize(image[None])), label[None])
    return jax.grad(loss)(params)

  gradients = jax.jit(jax.vmap(gradient, (None, 0, 0)))
  examples = [jnp.asarray(task.arrays[name][:config.measured_examples])
              for name in ('image', 'label')]
  programs = [
    (mechanism, draws, jax.jit(functools.partial(estimate, mechanism, draws)))
    for mechanism in arms.mechanisms(config) for draws in mechanism.draws]
  found = [
    _measure_one(config, programs, gradients(
      jax.tree.map(lambda x: x[i], params), *examples), seed)
    for i, seed in enumerate(seeds)]
  return {name: np.stack([each[name] for each in found]) for name in found[0]}


def _measure_one(config, programs, grads, seed):
  """Measure all settings on the gradients [n, ...] of one network."""
  n, size = config.measured_examples, config.reference_batch_size
  exact = gradiv.estimate(
    jax.vmap(lambda g: gradiv.worker_moments(g, 'examples'),
             axis_name='examples', out_axes=None)(grads), num_examples=n)
  num_parameters = sum(g[0].size for g in jax.tree.leaves(grads))
  found, first = {'sq_norm': [], 'variance': [], 'predicted': []}, 0
  for mechanism, draws, program in programs:
    strengths = mechanism.strengths
    # Each setting has batches of its own, so that errors are independent.
    count = len(strengths) * config.measured_batches
    rows = data.order(seed, range(first, first + count), size, n,
                      sampling='replacement')
    first += count
    seen = program(grads, rows.reshape(len(strengths), -1, size),
                   trainer.key_for(seed, f'{draws} {mechanism.name}'))
    found['sq_norm'].extend(np.asarray(seen.sq_norm, float))
    found['variance'].extend(np.asarray(seen.variance, float))
    found['predicted'].extend(
      float(acting.bound(
        mechanism, exact, strength, num_parameters, n,
        _quantized_square(mechanism, grads, strength), draws))
      for strength in strengths)
  return {name: np.array(values) for name, values in found.items()}


def _quantized_square(mechanism, grads, levels):
  """Predict the mean ‖g‖² of rounded gradients; None for other mechanisms."""
  if mechanism.kind != 'quantize':
    return None
  return jax.vmap(
    lambda g: perturbations.quantized_sq_norm(g, levels))(grads).mean()


def estimate(
  mechanism: arms.Mechanism, draws: str, grads: optax.Updates,
  rows: jax.Array, key: jax.Array,
) -> gradiv.Estimate:
  """Estimate ‖∇F‖² and tr Σ of noisy gradients: [strengths, batches] each.

  Args:
    mechanism: What changes gradients at random.
    draws: 'tied' to the example, 'fresh', or 'shared' by the batch.
    grads: [n, ...], of each example.
    rows: [strengths, batches, b], the examples of each batch; a batch may hold
      an example twice.
    key: Of the draws.
  """
  axis = 'examples'

  def of_strength(given):
    i, strength, rows = given
    # Each strength draws anew, so that errors are independent.
    tx = acting.make(mechanism, strength, jax.random.fold_in(key, i),
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
  return jax.lax.map(
    of_strength, (jnp.arange(len(strengths)), strengths, rows))
