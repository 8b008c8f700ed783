"""Rules that turn the Gram matrix of gradients into the weights of their sum.

Most ways to combine n gradients look at them only through their inner
products: they are functions from the Gram matrix G_ij = ⟨g_i, g_j⟩ to weights,
and the update is Σ w_i g_i. The functions here that return a `Weighting` make
such a rule; the others are what those are made of, for your own. All run
inside `jax.jit`, in float32, for any n; call one on a Gram matrix, or hand it
to `aggregate_by_weights`.
"""

from gradiv.weightings.combining import (
  adacons as adacons,
  adasum as adasum,
  max_neighbours as max_neighbours,
  minimum_diameter as minimum_diameter,
)
from gradiv.weightings.core import (
  Weighting as Weighting,
  mean as mean,
  norm_clipping as norm_clipping,
  sq_distances as sq_distances,
  stateless as stateless,
  uniform as uniform,
  with_extra as with_extra,
)
from gradiv.weightings.filtering import (
  COMBINE as COMBINE,
  Threshold as Threshold,
  agreement as agreement,
  allowed_distance as allowed_distance,
  cosine_distance as cosine_distance,
  next_shares as next_shares,
)
from gradiv.weightings.minmax import (
  cagrad as cagrad,
  mgda as mgda,
  nash_mtl as nash_mtl,
)
from gradiv.weightings.projection import (
  dual_proj as dual_proj,
  gradvac as gradvac,
  pcgrad as pcgrad,
  upgrad as upgrad,
)
from gradiv.weightings.robust import (
  centered_clipping as centered_clipping,
  geometric_median as geometric_median,
  krum as krum,
  krum_scores as krum_scores,
  nearest_neighbour_mixing as nearest_neighbour_mixing,
)
from gradiv.weightings.spectral import (
  aligned_mtl as aligned_mtl,
  config as config,
  imtl_g as imtl_g,
)
