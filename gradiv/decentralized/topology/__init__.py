"""Who averages with whom: mixing matrices, and what their spectra promise.

A mixing matrix W [n, n] is doubly stochastic: worker i takes Σ_k W_ik x_k, and
the mean of the workers stays. A sequence [t, n, n] is taken in turn. All is
NumPy, on the host: a topology is known before a program is compiled.
"""

from gradiv.decentralized.topology.conditions import (
  check as check,
  check_columns as check_columns,
  is_connected as is_connected,
)
from gradiv.decentralized.topology.graphs import (
  binary_tree as binary_tree,
  chain as chain,
  circulant as circulant,
  complete as complete,
  exponential as exponential,
  hierarchical as hierarchical,
  hypercube as hypercube,
  lazy as lazy,
  metropolis as metropolis,
  ring as ring,
  star as star,
  torus as torus,
)
from gradiv.decentralized.topology.sequences import (
  finite_time as finite_time,
  one_peer_exponential as one_peer_exponential,
  one_peer_hypercube as one_peer_hypercube,
  random_matching as random_matching,
)
from gradiv.decentralized.topology.spectra import (
  effective_neighbours as effective_neighbours,
  isotropic_rate as isotropic_rate,
  least_eigenvalue as least_eigenvalue,
  spectral_gap as spectral_gap,
)
