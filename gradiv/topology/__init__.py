"""Who averages with whom: mixing matrices, and what their spectra promise.

A mixing matrix W [n, n] is doubly stochastic: worker i takes Σ_k W_ik x_k, and
the mean of the workers stays. A sequence [t, n, n] is taken in turn. All is
NumPy, on the host: a topology is known before a program is compiled.
"""

from gradiv.topology.checking import check as check
from gradiv.topology.checking import check_columns as check_columns
from gradiv.topology.checking import is_connected as is_connected
from gradiv.topology.graphs import binary_tree as binary_tree
from gradiv.topology.graphs import chain as chain
from gradiv.topology.graphs import circulant as circulant
from gradiv.topology.graphs import complete as complete
from gradiv.topology.graphs import exponential as exponential
from gradiv.topology.graphs import hierarchical as hierarchical
from gradiv.topology.graphs import hypercube as hypercube
from gradiv.topology.graphs import lazy as lazy
from gradiv.topology.graphs import metropolis as metropolis
from gradiv.topology.graphs import ring as ring
from gradiv.topology.graphs import star as star
from gradiv.topology.graphs import torus as torus
from gradiv.topology.sequences import finite_time as finite_time
from gradiv.topology.sequences import (
  one_peer_exponential as one_peer_exponential,
)
from gradiv.topology.sequences import one_peer_hypercube as one_peer_hypercube
from gradiv.topology.sequences import random_matching as random_matching
from gradiv.topology.spectra import effective_neighbours as effective_neighbours
from gradiv.topology.spectra import isotropic_rate as isotropic_rate
from gradiv.topology.spectra import least_eigenvalue as least_eigenvalue
from gradiv.topology.spectra import spectral_gap as spectral_gap
