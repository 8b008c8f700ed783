"""The aggregation rules of the table, for a number of bad workers."""

from collections.abc import Callable, Mapping

import optax

import gradiv
from gradiv import aggregation, weightings as w

AXIS = 'workers'
# What gradients are clipped to: their own length, √2.
LENGTH = 2**.5


def _weigh(weighting) -> optax.GradientTransformation:
  return gradiv.aggregate_by_weights(weighting, AXIS)


Make = Callable[[], optax.GradientTransformation]


def rules(num_bad: int) -> Mapping[str, Make]:
  """Return the rules by name, each told how many workers may be bad.

  Rules that draw at random or remember steps are not among them. Bulyan takes
  n ≥ 4 f + 3.
  """
  f = num_bad
  agreement = lambda **options: gradiv.aggregate_by_agreement(
    0.97, AXIS, **options)
  found = {
    'mean': lambda: gradiv.aggregate_by_mean(AXIS),
    'median': lambda: gradiv.aggregate_by_median(AXIS),
    'trimmed mean': lambda: gradiv.aggregate_by_trimmed_mean(f, AXIS),
    'Bulyan': lambda: aggregation.aggregate_by_bulyan(f, AXIS),
    'Krum': lambda: _weigh(w.krum(f)),
    'multi-Krum, 3': lambda: _weigh(w.krum(f, num_selected=3)),
    'nearest-neighbor mixing, mean': lambda: _weigh(
      w.nearest_neighbor_mixing(f)),
    'nearest-neighbor mixing, Krum': lambda: _weigh(
      w.nearest_neighbor_mixing(f, then=w.krum(f))),
    'minimum diameter': lambda: _weigh(w.minimum_diameter(f)),
    'most neighbors': lambda: _weigh(w.max_neighbors(0.9)),
    'geometric median': lambda: _weigh(w.geometric_median()),
    'norm clipping': lambda: _weigh(w.norm_clipping(LENGTH)),
    'centered clipping': lambda: _weigh(w.centered_clipping(LENGTH)),
    'agreement': lambda: agreement(),
    'agreement, any anchor': lambda: agreement(num_anchors=8),
    'agreement, leave one out': lambda: agreement(combine='leave_one_out'),
    'sign agreement': lambda: gradiv.aggregate_by_sign_agreement(0.4, AXIS),
    'sign majority': lambda: aggregation.aggregate_by_sign_majority(AXIS),
    'Adasum': lambda: _weigh(w.adasum()),
    'MGDA': lambda: _weigh(w.mgda()),
    'CAGrad': lambda: _weigh(w.cagrad()),
    'Nash-MTL': lambda: _weigh(w.nash_mtl()),
    'IMTL-G': lambda: _weigh(w.imtl_g()),
    'FairGrad': lambda: _weigh(w.fairgrad()),
    'ConFIG': lambda: _weigh(w.conflict_free()),
    'Aligned-MTL': lambda: _weigh(w.aligned_mtl()),
    'UPGrad': lambda: _weigh(w.upgrad()),
    'dual projection': lambda: _weigh(w.dual_proj()),
  }
  return found if f < 2 else {
    name: make for name, make in found.items() if name != 'Bulyan'}
