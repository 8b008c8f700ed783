"""What the mechanisms do to a gradient, and the B_S that the formulas give."""

from typing import Any

import jax
import optax

import gradiv
from experiments.gradient_diversity.mechanisms.arms import Mechanism
from gradiv import perturbations


def make(mechanism: Mechanism, strength: Any, key: jax.Array,
         axis_name: gradiv.AxisName | None) -> optax.GradientTransformation:
  """Build the transformation of a mechanism at a strength."""
  if mechanism.kind == 'quantize':  # levels shape a program: a number
    return gradiv.quantize_updates(
      mechanism.strengths[0], key=key, axis_name=axis_name)
  build = {'drop': gradiv.drop_updates, 'noise': gradiv.add_langevin_noise}
  return build[mechanism.kind](strength, key=key, axis_name=axis_name)


def bound(mechanism: Mechanism, estimate: gradiv.Estimate, strength: float,
          num_parameters: int, num_examples: int, quantized_square: Any,
          draws: str) -> Any:
  """Predict B_S under a mechanism.

  Args:
    mechanism: What changes gradients at random.
    estimate: Of the gradients as they are.
    strength: Of the mechanism.
    num_parameters: d.
    num_examples: n.
    quantized_square: The mean ‖g‖² of rounded gradients; None for other
      mechanisms.
    draws: Who shares a draw.
  """
  if mechanism.kind == 'drop':
    return perturbations.drop_updates_batch_size_bound(
      estimate, strength, num_examples, draws=draws)
  if mechanism.kind == 'noise':
    return perturbations.langevin_noise_batch_size_bound(
      estimate, strength, num_parameters, num_examples, draws=draws)
  return perturbations.quantized_batch_size_bound(
    estimate, quantized_square, num_examples, draws=draws)
