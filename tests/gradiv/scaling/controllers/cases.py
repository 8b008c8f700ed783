"""Quadratics with known noise, readings of them, and runs of controllers."""

import functools
import math

import jax
import numpy as np

import gradiv
from gradiv.scaling import controllers as lib

LADDER = lib.Ladder(4, 1024)


class Quadratic:
  """Gradients w + ξ with ξ ~ N(0, Σ): G = ‖w‖² and S = tr Σ are known."""

  def __init__(self, params, variances):
    self.params = np.asarray(params, np.float32)
    self.variances = np.asarray(variances, np.float32)
    self.signal = float(np.sum(self.params**2))
    self.noise = float(np.sum(self.variances))

  def grads(self, steps, num, seed=0):
    draw = np.random.default_rng(seed).normal(
      size=(steps, num, len(self.params)))
    return self.params + np.sqrt(self.variances) * draw


def tracked(problem, steps, num=32):
  """Track batches of `num` examples; return what is read at each step."""
  grads = problem.grads(steps, num)
  mean = grads.mean(1)
  moments = gradiv.Moments(
    np.full(steps, num, 'f'), np.ones(steps, 'f'),
    np.sum(mean**2, -1).astype('f'),
    np.mean(np.sum((grads - mean[:, None])**2, -1), -1).astype('f'))
  tx = gradiv.track_moments(decay=.99)

  def step(state, sample):
    _, state = tx.update((), state, moments=sample)
    return state, gradiv.read_moments(state)

  run = jax.jit(functools.partial(jax.lax.scan, step))
  read = jax.device_get(run(tx.init(()), moments)[1])
  return [jax.tree.map(lambda x: x[i], read) for i in range(steps)]


# B_simple = 120/2 = 60, far from the middle between two powers of two.
PROBLEM = Quadratic([1, 1, 0, 0], [40, 10, 40, 30])


@functools.cache
def readings():
  """Readings of 600 steps, at each look."""
  return tracked(PROBLEM, 600)[::15]


def reading(low, high, value=None):
  """Make a reading in which B_simple is known to lie between two numbers."""
  ends = [gradiv.Estimate(np.float32(1 / (1 + x)), np.float32(x / (1 + x)))
          if math.isfinite(x) else gradiv.Estimate(np.float32(0), np.float32(1))
          for x in (low, high)]
  value = math.sqrt(low * high) if value is None else value
  estimate = gradiv.Estimate(np.float32(1), np.float32(value))
  if math.isinf(value):
    estimate = gradiv.Estimate(np.float32(-.1), np.float32(9))
  return readings()[-1]._replace(
    estimate=estimate, average=estimate,
    interval=gradiv.Interval(*ends, is_trusted=np.bool_(True)),
    batch_size_at_least=np.float32(1))


def follow(control, inputs, state=None, **kwargs):
  """Return all states of a controller."""
  states = [control.init() if state is None else state]
  for x in inputs:
    state, size = control.update(states[-1], x, **kwargs)
    assert size == state.batch_size
    states.append(state)
  return states


def sizes(states):
  return [state.batch_size for state in states]


FROM_READINGS = (
  ('noise_scale', lib.NoiseScale(ladder=LADDER), 60, 64),
  ('twice_the_noise_scale', lib.NoiseScale(ladder=LADDER, multiple=2), 120,
   128),
  ('noise_scale_from_above', lib.NoiseScale(ladder=LADDER, start=1024), 60, 64),
  ('norm_test', lib.NormTest(ladder=LADDER, theta=.8), 60 / .64, 128),
  ('norm_test_from_above', lib.NormTest(
    ladder=LADDER, theta=.8, start=1024), 60 / .64, 128),
  ('divebatch', lib.DiveBatch(ladder=LADDER, delta=.5), 30.5, 32),
)
