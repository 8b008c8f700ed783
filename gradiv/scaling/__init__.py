"""Predict how far a larger batch, or a longer delay, is free.

  fit_noise, bound_noise      the noise model (M, σ²) of a run, from its
                              measurements
  critical_batch_size         the batch size beyond which examples are wasted
  critical_delay              the delay beyond which steps are lost
  largest_stable_rate, ...    learning rates for a batch size and a delay
  speed_up, samples_factor    gain and cost of a batch size
"""

from gradiv.scaling.fits import (
  bound_noise as bound_noise,
  fit_noise as fit_noise,
  gradient_density as gradient_density,
  least_noise_ratio as least_noise_ratio,
)
from gradiv.scaling.laws import (
  NoiseModel as NoiseModel,
  critical_batch_size as critical_batch_size,
  critical_delay as critical_delay,
  parallel_efficiency as parallel_efficiency,
  samples_factor as samples_factor,
  speed_up as speed_up,
)
from gradiv.scaling.rates import (
  largest_stable_rate as largest_stable_rate,
  noise_limited_rate as noise_limited_rate,
  online_rate as online_rate,
  rate_factor as rate_factor,
)
