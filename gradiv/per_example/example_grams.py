"""Inner products of per-example gradients, and their weighted sums."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from gradiv import workers
from gradiv._common import trees
from gradiv._common.layout import Grouping
from gradiv.per_example import (
  _arguments,
  _by_group,
  _explicit_axes,
  _weighted_sums,
)
from gradiv.per_example._engine import (
  one_example,
  promotion,
  trace as trace_lib,
)


def example_gram(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: Grouping | None = None,
  axis_name: workers.AxisName | None = None,
) -> Callable[..., tuple[Any, jax.Array, Callable]]:
  """Create a function that computes all inner products G_ij = ⟨g_i, g_j⟩.

  Use it to see which examples agree, or to apply any rule of
  `gradiv.weightings` to the examples of one batch. Beside the Gram matrix you
  get ``combine(weights)``, which computes Σ w_i g_i, for one backward pass in
  all.

  To keep only examples that agree with one another (here, whose gradients lie
  within a cosine distance of 0.5):

  >>> from gradiv import weightings
  >>> loss_fn = lambda w, x: jnp.dot(w, x)  # of one example
  >>> batch = jnp.array([[1., 0.], [.9, .1], [-1., 0.]])
  >>> losses, gram, combine = example_gram(loss_fn)(jnp.zeros(2), batch)
  >>> weights = weightings.agreement(0.5)(gram)
  >>> print(weights)
  [0.5 0.5 0. ]

  The third example points the other way and is left out of the mean. The
  weights add up to one, so this is the gradient to take a step along:

  >>> print(combine(weights))
  [0.95 0.05]

  There is no `microbatch_size`, because each inner product needs the factors
  of two examples: those of all examples are held at once.

  Args:
    loss_fn: Function ``loss_fn(params, example, *args)`` that returns the loss
      of one example, as in `example_moments`.
    has_aux: Whether `loss_fn` returns a pair (loss, aux).
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`, to get one matrix per group.
    axis_name: Axis of the workers, if each holds a batch of its own. Losses
      and Gram matrix are then those of this worker's examples, and `combine`
      adds up over the examples of all workers; divide the weights by the
      number of workers to average what they chose. Examples of different
      workers are not compared, since every worker would need the activations
      of all others: compare the workers' means by
      `gradiv.aggregate_by_weights` instead.

  Returns:
    A function ``(params, batch, *args, mask=None) -> (losses, gram, combine)``
    with losses [n] and gram [n, n] in at least float32, or [groups, n, n] with
    `groups` in the order of `gradiv.group_names(params, groups)`. `combine`
    takes weights [n] or [groups, n], and is otherwise as in
    `example_sq_norms`. Rows and columns are NaN where `mask` [n] is False:
    weightings leave them out.
  """
  _arguments.check_options(groups=groups, axis_name=axis_name)

  @promotion.standard
  def gram_fn(params, batch, *args, mask=None):
    return _explicit_axes.run(
      of_all, lambda lie: (
        (lie.rows, lie.rows) if has_aux else lie.rows, P(),
        _weighted_sums.layout(lie)), params, batch, mask, *args)

  def of_all(params, batch, mask, *args):
    n = one_example.count_examples(batch)
    mask = _arguments.as_mask(mask, n)
    if axis_name is not None:
      params = workers.as_private(params, axis_name)
    trace = trace_lib.Trace(
      _arguments.with_args(loss_fn, args), has_aux, params, batch)
    losses, aux, data = trace.run(batch, mask)
    losses = jnp.where(data.mask, losses, 0)
    grams = [trace.over_shards(leaf, trees.widen(leaf.gram(data)))
             for leaf in trace.leaves]
    gram = _by_group.add_up(trace, params, grams, groups, (n, n))
    both = data.mask[:, None] & data.mask[None, :]
    combine = _weighted_sums.of_factors(
      trace, data, _by_group.index_of(trace, params, groups),
      (*_by_group.shape_of(params, groups), n), axis_name)
    return ((losses, trace.unflatten_aux(aux)) if has_aux else losses,
            jnp.where(both, gram, jnp.nan), combine)

  return gram_fn
