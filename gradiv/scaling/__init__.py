"""How far batches and delays are free: laws, fits, and the exact quadratic."""

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
    largest_stable_rate as largest_stable_rate,
    noise_limited_rate as noise_limited_rate,
    online_rate as online_rate,
    parallel_efficiency as parallel_efficiency,
    rate_factor as rate_factor,
    samples_factor as samples_factor,
    speed_up as speed_up,
)
