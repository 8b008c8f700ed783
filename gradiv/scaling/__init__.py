"""Predict how far a larger batch, or a longer delay, is free, and act on it.

  fit_noise, bound_noise      the noise model (M, σ²) of a run, from its
                              measurements
  critical_batch_size         the batch size beyond which examples are wasted
  critical_delay              the delay beyond which steps are lost
  largest_stable_rate, ...    learning rates for a batch size and a delay
  speed_up, samples_factor    gain and cost of a batch size
  scale_by_diversity          AdaScale: the rate and the schedule of a small
                              batch for a large one
  scale_by_predicted_rate     the rate that a law predicts, beside the one used
  controllers                 what was measured to the next batch size
  ramp                        a ramp in the syntax of Megatron-LM, MaxText or
                              OLMo-core
"""

from gradiv.scaling import controllers as controllers
from gradiv.scaling.adam_statistics import (
  precondition_like_adam as precondition_like_adam,
)
from gradiv.scaling.adascale import (
  ScaleByDiversityState as ScaleByDiversityState,
  scale_by_diversity as scale_by_diversity,
)
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
from gradiv.scaling.predicted_rates import (
  ScaleByPredictedRateState as ScaleByPredictedRateState,
  scale_by_predicted_rate as scale_by_predicted_rate,
)
from gradiv.scaling.rates import (
  largest_stable_rate as largest_stable_rate,
  noise_limited_rate as noise_limited_rate,
  online_rate as online_rate,
  rate_factor as rate_factor,
  square_root_rate as square_root_rate,
)
from gradiv.scaling.trainer_syntax import ramp as ramp
