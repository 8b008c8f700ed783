"""Measure how much gradients differ, and how well that is known."""

from gradiv.diversity.intervals import Interval as Interval
from gradiv.diversity.metrics import (
  Estimate as Estimate,
  adascale_gain as adascale_gain,
  batch_penalty as batch_penalty,
  batch_size_bound as batch_size_bound,
  bound_without_replacement as bound_without_replacement,
  coherence as coherence,
  drop_updates_bound as drop_updates_bound,
  estimate as estimate,
  gradient_diversity as gradient_diversity,
  inverse_batch_size_bound as inverse_batch_size_bound,
  langevin_noise_bound as langevin_noise_bound,
  noise_scale as noise_scale,
  norm_test_batch_size as norm_test_batch_size,
  quantized_bound as quantized_bound,
  steps_factor as steps_factor,
)
from gradiv.diversity.moments import (
  Moments as Moments,
  by_layer as by_layer,
  merge_moments as merge_moments,
  worker_moments as worker_moments,
)
from gradiv.diversity.tracking import (
  TrackMomentsState as TrackMomentsState,
  track_moments as track_moments,
)
