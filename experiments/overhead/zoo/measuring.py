"""What one model of the zoo says: is it right, and what does it cost."""

import contextlib
import math
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from experiments.cost import flops, timing
from experiments.overhead.zoo.table import Model, Problem
from gradiv.per_example._engine import costs

# Of alternating visits to both steps.
ROUNDS = 9
# Of alternating builds of both. The least counts: one build differs from the
# next by a quarter.
BUILDS = 3


def plain(problem: Problem):
  """Return the step that the others are held against."""
  each = jax.vmap(problem.loss, (None, 0))
  return jax.value_and_grad(lambda p, batch: jnp.mean(each(p, batch)))


def warm_up() -> None:
  """Load what jax loads when it is first used, so that no model pays for it."""
  toy = Problem(lambda w, x: jnp.mean(jnp.tanh(x @ w)**2), jnp.ones((3, 2)),
                jnp.ones((4, 5, 3)))
  for step in (plain(toy), gradiv.example_moments(toy.loss)):
    jax.jit(step).lower(toy.params, toy.batch).compile()


def measure(model: Model) -> dict[str, Any]:
  """Measure one model.

  Returns:
    The largest relative error of gradient, ‖ḡ‖² and deviation; the ratios of
    FLOPs, temporary memory, building time (trace and compile, in CPU seconds)
    and time of a step of `example_moments` to the plain step, with what that
    one takes; and the share of the parameters that would be measured by
    products if nothing were small.
  """
  problem = model.make()
  arguments = problem.params, problem.batch
  steps = {'plain': plain(problem), 'moments': gradiv.example_moments(
    problem.loss)}
  # What the model loads when it is first called is loaded before that.
  jax.eval_shape(problem.loss, problem.params, _first(problem))
  seconds, made = dict.fromkeys(steps, math.inf), {}
  for name, step in [*steps.items()] * BUILDS:
    jax.clear_caches()
    start = time.process_time()
    made[name] = jax.jit(step).lower(*arguments).compile()
    seconds[name] = min(seconds[name], time.process_time() - start)
  of = lambda name: (
    flops.flops_traced(steps[name], *arguments),
    made[name].memory_analysis().temp_size_in_bytes, seconds[name])
  work, memory, build = (b / max(a, 1e-9) for a, b in zip(
    of('plain'), of('moments')))
  times = timing.in_turn(made, *arguments, rounds=ROUNDS)
  return {
    'model': model.name, 'source': model.source,
    'parameters': sum(x.size for x in jax.tree.leaves(problem.params)),
    'examples': len(jax.tree.leaves(problem.batch)[0]),
    'error': error(problem, made['moments'](*arguments)), 'flops': work,
    'memory': memory, 'build': build, 'plain_build_seconds': seconds['plain'],
    'step': times['moments'] / times['plain'],
    'plain_milliseconds': times['plain'],
    'in_products': in_products(problem)}


def error(problem: Problem, found: tuple) -> float:
  """Return the largest error, relative to one gradient after the other."""
  _, grads, moments = found
  step = jax.jit(jax.grad(problem.loss))
  count = len(jax.tree.leaves(problem.batch)[0])
  rows = np.stack([_flat(step(problem.params, jax.tree.map(
    lambda x: x[i], problem.batch))) for i in range(count)])
  mean = rows.mean(0)
  # The deviation is a difference: it is held to what it is the difference of.
  square = np.mean(np.sum(rows**2, 1))
  deviation = np.mean(np.sum((rows - mean)**2, 1))
  return float(max(
    np.linalg.norm(_flat(grads) - mean) / np.linalg.norm(mean),
    abs(moments.mean_sq_deviation - deviation) / square,
    abs(moments.sq_norm_of_mean - mean @ mean) / square))


def in_products(problem: Problem) -> float:
  """Return the share of the parameters in products, were nothing small."""
  with _as_at_scale():
    rows = gradiv.explain(problem.loss, problem.params, problem.batch).rows
  size = lambda rows: sum(math.prod(row.shape) for row in rows)
  others = ('fallback', 'mixture', 'example', 'common')
  return size([row for row in rows if row.rule not in others]) / size(rows)


@contextlib.contextmanager
def _as_at_scale():
  """Let the engine think that nothing is small enough to be written out."""
  with mock.patch.object(costs, 'WHOLE', 0), mock.patch.object(
      costs, 'room', lambda platform=None: 1):
    yield


def _first(problem):
  return jax.tree.map(lambda x: x[0], problem.batch)


def _flat(tree):
  return np.concatenate([
    np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
