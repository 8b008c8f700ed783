"""Gradient agreement filtering of workers.

Chaubard, Eddy, Kochenderfer, `Beyond Gradient Averaging in Parallel
Optimization: Improved Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024. Of micro-steps on one device, see
`agreement_over_steps`.
"""

import jax
import optax

from gradiv import weightings, workers
from gradiv._common import layout as layouts
from gradiv.aggregation import weighted


def aggregate_by_agreement(
  max_cosine_distance: weightings.Threshold,
  axis_name: workers.AxisName,
  *,
  combine: str = 'running_mean',
  key: jax.Array | None = None,
  num_anchors: int = 1,
  min_agreed: int = 2,
  fallback: str = 'zero',
  count_aware: bool = False,
  window: int = 0,
  num_stddevs: float = 2.0,
  num_workers: int | None = None,
  sharded: bool = False,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average the workers' gradients that agree, by their cosine distance.

  Use it in place of the mean when labels are noisy or workers disagree. Worker
  0 starts the aggregate m: it is the *anchor*. Each later worker joins if its
  cosine distance 1 − ⟨m, g_i⟩/(‖m‖‖g_i‖) to the aggregate so far is at most τ.
  If the anchor itself is the odd one out, nothing agrees: pass `num_anchors` or
  a `key` to try others. The result is exact, and costs the traffic of one
  all-reduce. The state, a `gradiv.aggregation.AggregateState`, records
  `num_agreed` and the other decisions of the last step.

  If fewer than `min_agreed` workers agree, the update is zero. Wrap the
  optimizer in `skip_zero_updates`; otherwise momentum and weight decay still
  move the parameters on skipped steps. With `Layout.groups`, a skipped layer
  still moves by its momentum unless all layers are skipped.

  Args:
    max_cosine_distance: τ, from 0 to 2, or a schedule of it.
    axis_name: Axis, or axes, of the workers.
    combine: How gradients join: 'running_mean', 'halving', 'first' or
      'leave_one_out'. See `weightings.agreement`, also for the arguments
      below that it has as well.
    key: Key to draw the order of the workers, and with it the anchor, anew in
      each step; by default they are taken in their own order.
    num_anchors: Number of anchors to try until one finds agreement.
    min_agreed: Number of workers that must agree. With fewer workers, none do.
    fallback: Update if fewer agree: 'zero', 'mean' or 'closest_pair'.
    count_aware: Whether to be stricter with a mean of many gradients than with
      a single one.
    window: Number of steps of distances to adapt τ to; by default it is fixed.
    num_stddevs: With `window`, standard deviations above the mean distance.
    num_workers: Number of workers; if given, the state records the weights.
    sharded: Whether to return each worker's slice of the update alone; see
      `aggregate_by_weights`.
    layout: Layout of the gradients. With `groups`, each group is filtered
      separately.

  >>> import jax.numpy as jnp
  >>> from gradiv import skip_zero_updates
  >>> tx = optax.chain(aggregate_by_agreement(0.9, 'workers'),
  ...                  skip_zero_updates(optax.sgd(1., momentum=0.9)))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 2.], [2., 1.], [-3., 0.]])).tolist()
  [-1.5, -1.5]

  The update is minus the mean of the first two gradients, as SGD descends; the
  third points elsewhere and is left out.

  The third worker points the other way and is filtered out.
  """
  rule = weightings.agreement(
    max_cosine_distance, combine=combine, shuffle=key is not None,
    num_anchors=num_anchors, min_agreed=min_agreed, fallback=fallback,
    count_aware=count_aware, window=window, num_stddevs=num_stddevs)
  return weighted.aggregate_by_weights(
    rule, axis_name, key=key, num_workers=num_workers, sharded=sharded,
    layout=layout)
