"""Rules that turn the Gram matrix of gradients into the weights of their sum.

Most ways to combine n gradients look at them only through their inner
products: they are functions from the Gram matrix G_ij = ⟨g_i, g_j⟩ to weights,
and the update is Σ w_i g_i. The functions here that return a `Weighting` make
such a rule; the others are what those are made of, for your own. All run
inside `jax.jit`, in float32, for any n; call one on a Gram matrix, or hand it
to `aggregate_by_weights`.
"""

from gradiv.weightings.combining import adacons as adacons
from gradiv.weightings.combining import adasum as adasum
from gradiv.weightings.combining import max_neighbours as max_neighbours
from gradiv.weightings.combining import minimum_diameter as minimum_diameter
from gradiv.weightings.core import Weighting as Weighting
from gradiv.weightings.core import mean as mean
from gradiv.weightings.core import norm_clipping as norm_clipping
from gradiv.weightings.core import sq_distances as sq_distances
from gradiv.weightings.core import stateless as stateless
from gradiv.weightings.core import uniform as uniform
from gradiv.weightings.core import with_extra as with_extra
from gradiv.weightings.filtering import COMBINE as COMBINE
from gradiv.weightings.filtering import Threshold as Threshold
from gradiv.weightings.filtering import agreement as agreement
from gradiv.weightings.filtering import allowed_distance as allowed_distance
from gradiv.weightings.filtering import cosine_distance as cosine_distance
from gradiv.weightings.filtering import next_shares as next_shares
from gradiv.weightings.minmax import cagrad as cagrad
from gradiv.weightings.minmax import mgda as mgda
from gradiv.weightings.minmax import nash_mtl as nash_mtl
from gradiv.weightings.projection import dual_proj as dual_proj
from gradiv.weightings.projection import gradvac as gradvac
from gradiv.weightings.projection import pcgrad as pcgrad
from gradiv.weightings.projection import upgrad as upgrad
from gradiv.weightings.robust import centered_clipping as centered_clipping
from gradiv.weightings.robust import geometric_median as geometric_median
from gradiv.weightings.robust import krum as krum
from gradiv.weightings.robust import krum_scores as krum_scores
from gradiv.weightings.robust import (
  nearest_neighbour_mixing as nearest_neighbour_mixing,
)
from gradiv.weightings.spectral import aligned_mtl as aligned_mtl
from gradiv.weightings.spectral import config as config
from gradiv.weightings.spectral import imtl_g as imtl_g
