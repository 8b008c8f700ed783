"""Loss, gradient and gradient diversity of a batch, in one backward pass.

The gradient of a weight is a product of activations and errors. It is the last
step of a backward pass, and the only one in which the examples of a batch meet:
everything before it is computed per example anyway. The norms of the
per-example gradients follow from the two factors, without ever writing the
gradients out. Goodfellow, `Efficient Per-Example Gradient Computations
<https://arxiv.org/abs/1510.01799>`_, 2015, for dense layers; Roulet and
Agarwala, `Per-example gradients: a new frontier for understanding and
improving optimizers <https://arxiv.org/abs/2510.00236>`_, 2025.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from gradiv import workers
from gradiv._common.layout import Grouping
from gradiv.diversity import _metric
from gradiv.diversity.moments import Moments
from gradiv.per_example import (
  _arguments,
  _batch_sums,
  _explicit_axes,
  _microbatches,
  _weights,
)
from gradiv.per_example._engine import (
  one_example,
  promotion,
  trace as trace_lib,
)


def example_moments(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: Grouping | None = None,
  axis_name: workers.AxisName | None = None,
  microbatch_size: int | None = None,
) -> Callable[..., tuple[Any, Any, Moments]]:
  """Create a function that computes loss, gradient and `Moments` of a batch.

  Use it in place of `jax.value_and_grad` to see how much the gradients of the
  examples in one batch disagree, at about the price of the plain gradient.
  With g_i the gradient of example i, the `Moments` are ‖ḡ‖² and
  (1/n) Σ ‖g_i − ḡ‖², for gradients of batch size 1. `gradiv.estimate` turns
  them into unbiased estimates of ‖∇F‖² and of the gradient variance tr Σ, from
  which `gradiv.batch_size_bound` computes B_S = 1 + tr Σ / ‖∇F‖².

  The deviation is computed as (1/n) Σ ‖g_i‖² − ‖ḡ‖², so it is known only to
  about 1e-7 ‖ḡ‖² (1e-3 ‖ḡ‖² if the gradients are bfloat16): gradients that
  agree more closely have a deviation of zero, or of rounding errors.

  To read the B_S of one batch:

  >>> import gradiv
  >>> loss_fn = lambda w, x: 0.5 * jnp.sum(jnp.square(w - x))
  >>> w, batch = jnp.zeros(2), jnp.array([[3., 1.], [3., -1.]])
  >>> loss, grads, moments = example_moments(loss_fn)(w, batch)
  >>> float(loss), grads.tolist(), float(moments.mean_sq_deviation)
  (5.0, [-3.0, 0.0], 1.0)

  Two examples of variance 2 around a mean gradient of squared norm 9, of which
  1 is noise: B_S = 1 + 2 / 8. In training, average over steps first
  (`gradiv.track_moments`), since one small batch says little.

  >>> float(gradiv.batch_size_bound(gradiv.estimate(moments)))
  1.25

  Args:
    loss_fn: Function ``loss_fn(params, example, *args)`` that returns the loss
      of one example, a scalar. An example is the batch without its leading
      axis. Put one random key per example into the batch if the loss is
      stochastic.
    has_aux: Whether `loss_fn` returns a pair (loss, aux).
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`. Each group then has moments of its own.
    axis_name: Axis of the workers, if each holds a batch of its own, all of
      one size. All results are then over the examples of all workers, for the
      price of one all-reduce of the gradient.
    microbatch_size: Number of examples to process at once, in a loop that
      saves memory; must divide the batch. All of them by default.

  Returns:
    A function ``(params, batch, *args, mask=None, weights=None, metric=None)
    -> (loss, grads, moments)``. Loss and gradient are means over the examples.
    `args` are passed to `loss_fn` as they are. `mask`, a bool array [n], says
    which examples count; the others may hold anything, as padding does. For
    `weights` [n] and `metric`, see below. With `has_aux`, the first
    result is (loss, aux) with an axis of examples in front of each leaf of
    aux. With `groups`, each field of the moments has a leading axis [groups]
    in the order of `gradiv.group_names(params, groups)`. Integer leaves of the
    parameters have gradients of dtype float0, as in `jax.grad` with
    ``allow_int=True``.

  ``metric``: Weights d, a tree like the floating-point (or complex) parameters,
  for moments in the norm ‖g‖² = Σ d_j |g_j|². With `gradiv.adam_metric` of the
  optimizer's state before the step, B_S is that of Adam. Loss and gradient stay
  what they are. For dense layers with several positions, the products are
  written out, a few examples at a time, and layers in a loop are not finished
  within it.

  ``weights``: How many units w_i each example stands for, such as the tokens of
  a sequence that count in a masked language model, if `loss_fn` returns the
  *mean* over them. Loss and gradient are then Σ w_i g_i / Σ w_i, the mean over
  all units, and the moments are ‖ḡ‖² and Σ w_i ‖g_i − ḡ‖² / Σ w_i, of n
  gradients with the mean of w as their batch size: as those of `worker_moments`
  where batch sizes differ. `gradiv.estimate` is unbiased, *per unit*, if tr Σ_i
  of example i is tr Σ / w_i, as for units that are drawn one by one; where the
  tokens of a sequence resemble each other, `gradiv.nested_moments` tells by how
  much. For weights that say how much an example should count, and not how much
  is behind it, all examples have the same tr Σ: replace ``num_gradients`` by
  (Σ w)²/Σ w² and ``batch_size`` by 1 in the moments, and the estimate is
  unbiased, per example. Weights of zero leave an example out, like `mask`.

  Norms and inner products of single examples have no weights:
  `example_sq_norms` and `example_gram` leave them to `combine`.
  """
  _arguments.check_options(
    groups=groups, axis_name=axis_name, microbatch_size=microbatch_size)

  @promotion.standard
  def moments_fn(params, batch, *args, mask=None, weights=None, metric=None):
    return _explicit_axes.run(
      of_all, lambda lie: ((P(), lie.rows) if has_aux else P(), lie.grads, P()),
      params, batch, mask, weights, metric, *args)

  def of_all(params, batch, mask, weights, metric, *args):
    n = one_example.count_examples(batch)
    mask = _arguments.as_mask(mask, n)
    size = _arguments.as_size(microbatch_size, n)
    loss = _arguments.with_args(loss_fn, args)
    if axis_name is not None:
      params = workers.as_private(params, axis_name)
    if weights is not None:
      weights, mask = _weights.as_counts(weights, mask, n)
      batch, loss = (batch, weights), _weights.weigh(loss, has_aux)
    own, count, units = _count(n, mask, weights, axis_name)
    least = 1 if weights is None else jnp.finfo(jnp.float32).tiny
    scale = 1 / jnp.maximum(units, least).astype(jnp.result_type(float))
    trace = trace_lib.Trace(
      loss, has_aux, params, _microbatches.first(batch, size),
      only_sums=mask is None and metric is None,
      scale=None if weights is not None else scale)
    # Squares of a scale that is far from one would overflow.
    late = trace.scale if weights is None else scale
    diagonals = _diagonals(trace, metric, params, axis_name)
    total, shared, aux = _microbatches.add_up(
      lambda chunk: _batch_sums.of_examples(
        trace, params, groups, late, diagonals, *chunk),
      (batch, mask, weights), size)
    # What all examples share is added once, however many there are. Each of
    # several workers adds the part of its examples, so that the sum over the
    # workers is typed as common to them.
    part = jnp.float32(1) if axis_name is None else own * scale
    if late is None:  # What is shared has been scaled.
      part = part / scale
    total['grads'] = [
      _batch_sums.as_dtype(
        g if c is None else g + _batch_sums.times(c.astype(g.dtype), part),
        leaf.dtype)
      for g, c, leaf in zip(total['grads'], shared, trace.leaves)]
    if axis_name is not None:
      total = lax.psum(total, axis_name)
    loss = _batch_sums.times(total['loss'], scale).astype(trace.loss_dtype)
    moments = _batch_sums.moments(
      trace, params, groups, total, count, units,
      scale if late is not None else 1 / scale, diagonals)
    return ((loss, trace.unflatten_aux(aux)) if has_aux else loss,
            trace.unflatten(total['grads']), moments)

  return moments_fn


def _count(n, mask, weights, axis_name):
  """Count what this worker has, and the examples and units of all workers.

  Returns:
    The units of this worker, and the examples and units of all of them. Units
    are examples unless there are weights.
  """
  examples = jnp.float32(n) if mask is None else jnp.sum(
    mask, dtype=jnp.float32)
  own = examples if weights is None else jnp.sum(weights)
  if axis_name is None:
    return own, examples, own
  if mask is None:  # Then all workers count alike, and no psum is needed.
    count = own * workers.num_workers(axis_name)
    return own, count, count
  if weights is None:
    count = lax.psum(own, axis_name)
    return own, count, count
  return own, *lax.psum((examples, own), axis_name)


def _diagonals(trace, metric, params, axis_name):
  """Return the weights of the norm for each leaf of the trace, or None.

  A complex parameter has two such leaves.
  """
  if metric is None:
    return [None] * len(trace.leaves)
  inexact = [x for x in map(jnp.asarray, jax.tree.leaves(params))
             if jnp.issubdtype(x.dtype, jnp.inexact)]
  found = [d for d, x in zip(_metric.leaves_of(metric, inexact), inexact)
           for _ in range(2 if jnp.iscomplexobj(x) else 1)]
  return found if axis_name is None else workers.as_private(found, axis_name)
