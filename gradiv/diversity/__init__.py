"""Measure how much gradients differ, and how well that is known.

Start with `Moments`, two statistics of a sample of gradients: `worker_moments`
computes them for the gradients of workers, `accumulate_moments` for those of
micro-steps (and `gradiv.example_moments` for those of the examples of a batch).
`estimate` turns them into unbiased estimates, of which every metric, such as
`batch_size_bound`, is a formula. `track_moments` averages the estimates over
steps in the optimizer's state, and `read_moments` reads them there, with an
`Interval` for each metric; `advise` says what other batch sizes would cost.

All of this is the noise of SGD. With `adam_metric` it is that of Adam, and
`worker_dual_norms` has that of sign descent and of Muon. `nested_moments` tells
how much of the noise lies within clusters, such as the rollouts of a prompt.
"""

from gradiv.diversity.accumulating import (
  AccumulateMomentsState as AccumulateMomentsState,
  accumulate_moments as accumulate_moments,
)
from gradiv.diversity.adam import adam_metric as adam_metric
from gradiv.diversity.advice import (
  Advice as Advice,
  Cost as Cost,
  Factor as Factor,
  advise as advise,
)
from gradiv.diversity.dual_norms import (
  DualNorms as DualNorms,
  worker_dual_norms as worker_dual_norms,
)
from gradiv.diversity.estimates import (
  Estimate as Estimate,
  estimate as estimate,
)
from gradiv.diversity.intervals import Interval as Interval
from gradiv.diversity.metrics import (
  adascale_gain as adascale_gain,
  batch_penalty as batch_penalty,
  batch_size_bound as batch_size_bound,
  batch_size_bound_without_replacement as batch_size_bound_without_replacement,
  coherence as coherence,
  gradient_diversity as gradient_diversity,
  inverse_batch_size_bound as inverse_batch_size_bound,
  noise_scale as noise_scale,
  norm_test_batch_size as norm_test_batch_size,
  steps_factor as steps_factor,
)
from gradiv.diversity.moments import (
  Moments as Moments,
  merge_moments as merge_moments,
  worker_moments as worker_moments,
)
from gradiv.diversity.nested import (
  NestedEstimate as NestedEstimate,
  NestedMoments as NestedMoments,
  nested_estimate as nested_estimate,
)
from gradiv.diversity.nested_gram import nested_moments as nested_moments
from gradiv.diversity.nested_jackknife import (
  nested_intervals as nested_intervals,
)
from gradiv.diversity.nested_workers import (
  worker_nested_moments as worker_nested_moments,
)
from gradiv.diversity.reading import (
  Reading as Reading,
  read_moments as read_moments,
)
from gradiv.diversity.tracking import (
  TrackMomentsState as TrackMomentsState,
  track_moments as track_moments,
)
