"""Shape gradient diversity: masks, noise and random rounding of gradients.

Yin et al. (2018) raise gradient diversity on purpose, so that larger batches
pay off. Put `drop_updates`, `add_langevin_noise` or `quantize_updates` in
front of `aggregate_by_*`, with `axis_name`, so that each worker draws on its
own. The `*_batch_size_bound` functions predict the B_S that each leads to.
`precondition_langevin` follows the aggregation and samples from a posterior;
`drop_connect` masks weights instead of gradients.
"""

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
  add_langevin_noise as add_langevin_noise,
  langevin_stddev as langevin_stddev,
)
from gradiv.perturbations.preconditioning import (
  PreconditionLangevinState as PreconditionLangevinState,
  precondition_langevin as precondition_langevin,
)
from gradiv.perturbations.rounding import (
  METHODS as METHODS,
  quantize_updates as quantize_updates,
  quantized_sq_norm as quantized_sq_norm,
  stochastic_quantize as stochastic_quantize,
)
