"""Norms of per-example gradients, and their weighted sums.

`combine` comes beside the statistic: choose weights by what you see, then
compute Σ w_i g_i without writing any g_i out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradiv import workers
from gradiv._common.layout import Grouping
from gradiv.per_example import (
  _arguments,
  _by_group,
  _explicit_axes,
  _microbatches,
  _weighted_sums,
)
from gradiv.per_example._engine import (
  one_example,
  promotion,
  trace as trace_lib,
)


def example_sq_norms(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: Grouping | None = None,
  axis_name: workers.AxisName | None = None,
  microbatch_size: int | None = None,
) -> Callable[..., tuple[Any, jax.Array, Callable]]:
  """Create a function that computes ‖g_i‖² for each example of a batch.

  Use it to clip per-example gradients (as differentially private training
  does), to find outliers, or to weight examples by their gradients. Beside the
  norms you get ``combine(weights)``, which computes Σ w_i g_i. It costs one
  product per layer, and no further backward pass.

  One training step in which no example moves the parameters by more than
  ``max_norm / n``:

  >>> import optax
  >>> loss_fn = lambda w, x: jnp.dot(w, x)  # of one example
  >>> norms_fn, tx = example_sq_norms(loss_fn), optax.sgd(1.0)
  >>> def clipped_step(params, opt_state, batch, max_norm):
  ...   losses, sq_norms, combine = norms_fn(params, batch)
  ...   scale = jnp.minimum(1, max_norm / jnp.sqrt(sq_norms))
  ...   grads = combine(scale / len(scale))  # (1/n) Σ clip(g_i)
  ...   updates, opt_state = tx.update(grads, opt_state, params)
  ...   return optax.apply_updates(params, updates), opt_state
  >>> w, batch = jnp.zeros(2), jnp.array([[3., 4.], [0., 1.]])
  >>> w, _ = clipped_step(w, tx.init(w), batch, 1.0)

  The gradients are the rows of the batch. The first, of norm 5, is scaled down
  to (0.6, 0.8); the second is kept:

  >>> print(w)
  [-0.3 -0.9]

  Args:
    loss_fn: Function ``loss_fn(params, example, *args)`` that returns the loss
      of one example, as in `example_moments`.
    has_aux: Whether `loss_fn` returns a pair (loss, aux).
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`, to get norms per group.
    axis_name: Axis of the workers, if each holds a batch of its own. Losses
      and norms are then those of this worker's examples, and `combine` adds up
      over the examples of all workers, so that its result is common to them.
      To average, divide the weights by the number of examples of all workers.
    microbatch_size: Number of examples to process at once, in a loop; must
      divide the batch. All of them by default. With it, `combine` does not
      hold the activations of the batch: it runs forward and backward again,
      one microbatch at a time, which costs about another step.

  Returns:
    A function ``(params, batch, *args, mask=None) -> (losses, sq_norms,
    combine)`` with losses [n] and sq_norms [n], or [groups, n] with `groups`
    in the order of `gradiv.group_names(params, groups)`. With `has_aux`, the
    first result is (losses, aux). `combine` takes weights of the shape of the
    norms and returns a tree like the parameters. An example of weight zero is
    left out, even if its gradient is NaN. Where `mask` [n] is False, losses
    and norms are zero and weights count as zero. `combine` is a pytree: it may
    leave `jax.jit`, and for that long it holds the activations.
  """
  _arguments.check_options(
    groups=groups, axis_name=axis_name, microbatch_size=microbatch_size)

  @promotion.standard
  def norms_fn(params, batch, *args, mask=None):
    return _explicit_axes.run(
      of_all, lambda lie: (
        (lie.rows, lie.rows) if has_aux else lie.rows,
        lie.rows if groups is None else lie.columns,
        _weighted_sums.layout(lie, by_factors=_is_whole(batch))),
      params, batch, mask, *args)

  def _is_whole(batch):
    return microbatch_size in (None, one_example.count_examples(batch))

  def of_all(params, batch, mask, *args):
    n = one_example.count_examples(batch)
    mask = _arguments.as_mask(mask, n)
    size = _arguments.as_size(microbatch_size, n)
    if axis_name is not None:
      params = workers.as_private(params, axis_name)
    trace = trace_lib.Trace(
      _arguments.with_args(loss_fn, args), has_aux, params,
      _microbatches.first(batch, size))
    weights = (_by_group.index_of(trace, params, groups),
               (*_by_group.shape_of(params, groups), n), axis_name)
    if size == n:
      losses, squares, aux, data = _norms(trace, params, groups, batch, mask)
      combine = _weighted_sums.of_factors(trace, data, *weights)
    else:
      losses, squares, aux = _microbatches.line_up(
        lambda chunk: _norms(trace, params, groups, *chunk)[:3],
        (batch, mask), size)
      combine = _weighted_sums.of_microbatches(trace, batch, mask, *weights)
    return ((losses, trace.unflatten_aux(aux)) if has_aux else losses,
            jnp.moveaxis(squares, 0, -1), combine)

  return norms_fn


def _norms(trace, params, groups, batch, mask):
  """Compute losses [n], squared norms [n, ...], aux, and the factors."""
  losses, aux, data = trace.run(batch, mask)
  squares, products = zip(*(leaf.norms(data) for leaf in trace.leaves)) if (
    trace.leaves) else ((), ())
  data = data._replace(products={
    leaf.value: x for leaf, x in zip(trace.leaves, products) if x is not None})
  squares = _by_group.add_up_squares(trace, params, list(squares), groups)
  squares = jnp.where(
    _by_group.of_group_and_example(data.mask, squares), squares, 0)
  # The examples in front, as in the losses, for microbatches to be joined.
  return (jnp.where(data.mask, losses, 0), jnp.moveaxis(squares, -1, 0), aux,
          data)
