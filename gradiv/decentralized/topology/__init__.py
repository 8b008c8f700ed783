"""Graphs of workers as mixing matrices: who averages with whom.

A mixing matrix W [n, n] is doubly stochastic: worker i takes Σ_k W_ik x_k, and
the mean of the workers stays. A sequence [t, n, n] is used in turn, one matrix
per step. Everything here is NumPy on the host, because a topology must be known
before a program is compiled.

  few messages       ring, torus, hierarchical (within and between machines)
  fast agreement     exponential, hypercube; complete is an all-reduce
  one message        one_peer_exponential, one_peer_hypercube, finite_time (any
                     n), random_matching
  two messages       random_ring
  your own graph     metropolis (weights of an undirected graph), circulant
  trees              chain, binary_tree: adjacency matrices, for mix_by_relay
  how good is it?    spectral_gap, effective_neighbors, least_eigenvalue
"""

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
from gradiv.decentralized.topology.properties import (
  check as check,
  check_columns as check_columns,
  effective_neighbors as effective_neighbors,
  is_connected as is_connected,
  isotropic_rate as isotropic_rate,
  least_eigenvalue as least_eigenvalue,
  spectral_gap as spectral_gap,
)
from gradiv.decentralized.topology.sequences import (
  finite_time as finite_time,
  one_peer_exponential as one_peer_exponential,
  one_peer_hypercube as one_peer_hypercube,
  random_matching as random_matching,
  random_ring as random_ring,
)
