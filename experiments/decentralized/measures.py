"""What `decentralized` measures along the training, step by step.

With g = ∇L at the workers' mean w_a, and g_a the mean of their gradients, each
on its own batch at its own parameters w_j:

  g_a = g + η_S + η_2,  η_S = (1/n) Σ ∇L_j(w_a) − g      noise of the batches
                        η_2 = g_a − (1/n) Σ ∇L_j(w_a)    of the disagreement

The effective learning rate α_e is that of the part of g_a along g; Δ is the
strength of the part across it. By Pythagoras,

  α_e² = (α² ‖g_a‖² − Δ)/‖g‖²

so a larger Δ means a lower α_e only where ‖g_a‖ stays the same. Two equations
of the paper are no identities, and nothing here relies on them:

  (9)  Δ = Δ_S + Δ_2 drops the product of the two parts, and takes Δ_2 with its
       component along g. Here each is measured on its own, across g.
  (5)  Δ_2 ≈ α² Σ H_kl H_kl' C_ll' takes the δw_j as independent, but they sum
       to zero: with one Hessian for all, the left is 0 and the right is not.

The paper's σ_w², the trace of C, divides the spread below by n once more.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import gradiv


class Sample(NamedTuple):
  """What a worker hands to a recorded optimizer.

  Attributes:
    gradient: As it is to be used.
    batch: What it was taken on, and all that was drawn for it.
    step: Common to all lanes and workers.
  """

  gradient: Any
  batch: Any
  step: jax.Array


class Measures(NamedTuple):
  """What is measured at one step, or at several: [slots] each.

  Attributes:
    ratio: α_e/α = ⟨g_a, g⟩/‖g‖².
    across: Δ = α²‖g_a⊥‖², with the part that is orthogonal to g.
    across_batch: Δ_S = α²‖η_S⊥‖².
    across_spread: Δ_2 = α²‖η_2⊥‖².
    spread: σ_w² = (1/n) Σ ‖w_j − w_a‖², the consensus distance.
  """

  ratio: jax.Array
  across: jax.Array
  across_batch: jax.Array
  across_spread: jax.Array
  spread: jax.Array


def along(x: Any, g: Any) -> jax.Array:
  """Compute ⟨x, g⟩/‖g‖², how much of g is in x.

  >>> float(along(jnp.array([1., 3.]), jnp.array([2., 0.])))
  0.5
  """
  return optax.tree.vdot(x, g) / optax.tree.vdot(g, g)


def across(x: Any, g: Any) -> jax.Array:
  """Compute ‖x − (⟨x, g⟩/‖g‖²) g‖², of the part orthogonal to g.

  >>> float(across(jnp.array([1., 3.]), jnp.array([2., 0.])))
  9.0
  """
  rest = optax.tree.add_scale(x, -along(x, g), g)
  return optax.tree.vdot(rest, rest)


def measure(
  sample: Sample, params: Any, *, gradient: Callable | None,
  reference: Callable, rate: jax.Array, axis_name: gradiv.AxisName,
) -> Measures:
  """Measure a step, on all workers alike.

  Args:
    sample: Of this worker.
    params: Of this worker, w_j.
    gradient: (params, batch) -> ∇L_j; None where all take it at w_a.
    reference: (params, batch) -> g, on examples that are the same at each
      step.
    rate: α.
    axis_name: Of the workers.
  """
  mean = lambda tree: jax.tree.map(
    lambda x: lax.pmean(x, axis_name), tree)
  center = mean(params)
  g = reference(center, sample.batch)
  g_a = mean(sample.gradient)
  at_center = mean(gradient(center, sample.batch)) if gradient else g_a
  strength = lambda x: jnp.square(rate) * across(x, g)
  return Measures(
    ratio=along(g_a, g), across=strength(g_a),
    across_batch=strength(at_center),  # η_S⊥ = (g + η_S)⊥
    across_spread=strength(optax.tree.sub(g_a, at_center)),
    spread=gradiv.consensus_distance(params, axis_name))


def take_gradient(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Let an optimizer take a `Sample`: its gradient, and `step`."""
  optimizer = optax.with_extra_args_support(optimizer)

  def update_fn(sample, state, params=None, **extra_args):
    return optimizer.update(
      sample.gradient, state, params, step=sample.step, **extra_args)

  return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


class RecorderState(NamedTuple):
  """State of `record`.

  Attributes:
    inner: Of the optimizer.
    series: Measures of [slots], the newest in place of the oldest.
  """

  inner: Any
  series: Measures


def record(
  optimizer: optax.GradientTransformation, measure: Callable, *, every: int,
  slots: int,
) -> optax.GradientTransformationExtraArgs:
  """Measure what an optimizer is given, every few steps.

  Args:
    optimizer: What takes a `Sample`.
    measure: (sample, params) -> Measures.
    every: Steps between two looks.
    slots: How many looks are kept.
  """
  def init_fn(params):
    empty = jnp.full((slots,), jnp.nan, jnp.float32)
    return RecorderState(
      optimizer.init(params), Measures(*(empty for _ in Measures._fields)))

  def update_fn(sample, state, params=None, **extra_args):
    del extra_args

    def look(series):
      slot = sample.step // every % slots
      return jax.tree.map(lambda all_, x: all_.at[slot].set(x), series,
                          measure(sample, params))

    # All workers and lanes are at the same step, and take the same branch.
    series = lax.cond(
      sample.step % every == 0, look, lambda series: series, state.series)
    updates, inner = optimizer.update(sample, state.inner, params)
    return updates, RecorderState(inner, series)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def read(state: RecorderState) -> dict[str, jax.Array]:
  """Read the series, as arrays to record."""
  return state.series._asdict()
