"""Raise gradient diversity on purpose: masks, noise and random rounding."""

from gradiv.perturbations.bounds import (
  drop_updates_batch_size_bound as drop_updates_batch_size_bound,
  langevin_noise_batch_size_bound as langevin_noise_batch_size_bound,
  quantized_batch_size_bound as quantized_batch_size_bound,
)
from gradiv.perturbations.dropping import (
  drop_connect as drop_connect,
  drop_updates as drop_updates,
)
from gradiv.perturbations.langevin import (
  PreconditionLangevinState as PreconditionLangevinState,
  add_langevin_noise as add_langevin_noise,
  langevin_stddev as langevin_stddev,
  precondition_langevin as precondition_langevin,
)
from gradiv.perturbations.rounding import (
  METHODS as METHODS,
  quantize_updates as quantize_updates,
  quantized_sq_norm as quantized_sq_norm,
  stochastic_quantize as stochastic_quantize,
)
