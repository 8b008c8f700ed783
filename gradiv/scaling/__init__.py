"""How far batches and delays are free: laws, fits, and the exact quadratic."""

from gradiv.scaling import quadratics as quadratics
from gradiv.scaling.fits import bound_noise as bound_noise
from gradiv.scaling.fits import fit_noise as fit_noise
from gradiv.scaling.fits import gradient_density as gradient_density
from gradiv.scaling.fits import least_noise_ratio as least_noise_ratio
from gradiv.scaling.laws import NoiseModel as NoiseModel
from gradiv.scaling.laws import critical_batch_size as critical_batch_size
from gradiv.scaling.laws import critical_delay as critical_delay
from gradiv.scaling.laws import largest_stable_rate as largest_stable_rate
from gradiv.scaling.laws import noise_limited_rate as noise_limited_rate
from gradiv.scaling.laws import online_rate as online_rate
from gradiv.scaling.laws import parallel_efficiency as parallel_efficiency
from gradiv.scaling.laws import rate_factor as rate_factor
from gradiv.scaling.laws import samples_factor as samples_factor
from gradiv.scaling.laws import speed_up as speed_up
