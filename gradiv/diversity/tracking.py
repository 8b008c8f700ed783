"""Averages of the moments over steps, carried in the optimizer's state.

Place `track_moments` before the aggregation: it looks at the workers'
gradients, passes them on unchanged, and keeps running sums in its state, which
jit, scan and checkpoints carry like any other. `read_moments` reads them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import (
  checks,
  counting,
  groups as groups_lib,
  layout as layouts,
  stateful,
  trees,
)
from gradiv.diversity import (
  averages as averages_lib,
  estimates,
  moments as moments_lib,
  windows as windows_lib,
)

Scalar = jax.typing.ArrayLike


class TrackMomentsState(NamedTuple):
  """State of `track_moments`; `read_moments` says what it means.

  Attributes:
    num_skipped: int32, number of steps left out because a statistic was not
      finite.
    averages: Running sums over the other steps. With groups, every array has a
      leading axis [groups + 1], whose last row is the whole gradient.
    windows: Sums over windows of several lengths, for the intervals; likewise.
    level: float32, the level of the confidence intervals.
    encoded_names: uint8, the names of the groups. They are an array, because
      jit and checkpoints carry no strings; () without groups.
  """

  num_skipped: jax.Array
  averages: averages_lib.Averages
  windows: windows_lib.Windows
  level: jax.Array
  encoded_names: jax.Array | tuple[()]


def track_moments(
  axis_name: workers.AxisName | None = None,
  *,
  batch_size: Scalar | None = None,
  decay: Scalar = 0.99,
  num_examples: Scalar | None = None,
  reduction: str = 'mean',
  groups: layouts.Grouping | None = None,
  level: Scalar = 0.95,
  layout: layouts.Layout | None = None,
  same_params: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Track the moments of the workers' gradients; pass the updates on unchanged.

  Use it to follow the batch-size bound B_S during training. In each step, G
  and S are estimated without bias (see `estimate`); each is averaged over steps
  by itself, Σ βʲ x_{t−j} / Σ βʲ, and negative estimates are kept. Beside it,
  both are averaged over windows of 16 to 2,048 steps, to tell B_S with an
  interval. Pass the state to `read_moments` for both, and that reading to
  `advise`. The windows are a hundred numbers, and need no communication.

  ``update`` accepts three extra arguments:

  * ``batch_size``, the number of examples of this step, in place of the one
    given at construction: for ramps, and for losses weighted by tokens. As in
    `worker_moments`, it may differ between workers.
  * ``moments``, a `Moments` to track in place of measuring the updates: of the
    examples of a batch (`example_moments`) or of micro-steps
    (`accumulate_moments`). It must be the same on all workers.
  * ``metric``, the weights of the norm in which the updates are measured, as in
    `worker_moments`. With ``adam_metric(opt_state)``, B_S is that of Adam.

  A step whose statistics are not finite only adds to the state's `num_skipped`.
  With one worker, or no parameters, everything stays NaN.

  Args:
    axis_name: Axis, or axes, of the workers; None if each update is given
      ``moments``.
    batch_size: Number of examples behind one worker's gradient. The estimates
      are per example, and therefore comparable between layouts.
    decay: Decay β of `Reading.average`, which has the noise of about
      1/(1 − β) steps. The windows do not depend on it.
    num_examples: Size of a finite data set from which the examples are drawn
      without replacement.
    reduction: 'mean' or 'sum', of the loss over its batch.
    groups: Function from a leaf's path to its group, such as `gradiv.by_layer`;
      each group is then tracked as well.
    level: Level of the confidence intervals.
    layout: `gradiv.Layout` of gradients that are sharded, or averaged over
      another axis first. `groups` may be given there instead.
    same_params: Whether to skip a step if the ``params`` given to ``update``
      are not the same on all workers. Gradients that FSDP has reduce-scattered
      are parts of one mean, and cannot be told from gradients otherwise; see
      `worker_moments`.

  Raises:
    ValueError: While tracing, if the gradients have already been reduced over
      the axis, as behind an aggregation; if a batch size or moments are
      missing; or if both ``moments`` and ``metric`` are given. Types show that
      gradients were reduced only under ``shard_map(check_vma=True)`` and
      `meshes.on_mesh`; elsewhere, `advise` says so.

  >>> import gradiv
  >>> tx = optax.chain(track_moments('workers', batch_size=2),
  ...                  gradiv.aggregate_by_mean('workers'), optax.sgd(.1))
  >>> state = tx.init(jnp.zeros(1))
  >>> step = gradiv.map_workers(lambda g, s: tx.update(g, s), 'workers',
  ...                           in_axes=(0, None), out_axes=None)
  >>> _, state = step(jnp.array([[1.], [3.]]), state)
  >>> estimate = gradiv.read_moments(state).estimate
  >>> float(estimate.sq_norm), float(estimate.variance)  # 2² − 4/(2·2); 2·2
  (3.0, 4.0)
  """
  _check(batch_size, reduction, decay, level, num_examples)
  if axis_name is not None:
    layout = moments_lib.resolve_layout(layout, groups, axis_name)
    groups = layout.groups
  elif layout is not None:
    raise ValueError('axis_name=None: must be given with layout')

  def init_fn(params):
    names = None if groups is None else groups_lib.group_names(params, groups)
    return TrackMomentsState(
      num_skipped=jnp.zeros((), jnp.int32),
      averages=_init_rows(averages_lib.init(), names),
      windows=_init_rows(windows_lib.init(), names),
      level=jnp.array(level, jnp.float32),
      encoded_names=() if names is None else _encode(names))

  def update_fn(updates, state, params=None, *, moments=None,
                batch_size=batch_size, metric=None, **extra_args):
    del extra_args
    if (groups is None) != isinstance(state.encoded_names, tuple):
      raise ValueError(f'groups={groups!r}: must be that with which init made '
                       'the state')
    if moments is not None and metric is not None:
      raise ValueError('metric is given with moments: must be given to what '
                       'computes the moments')
    if moments is None:
      if axis_name is not None and _is_alone(updates, axis_name):
        return updates, state
      if same_params and params is None:
        raise ValueError('same_params=True: update was not given params')
      moments = _measure(updates, axis_name, batch_size, reduction, layout,
                         params if same_params else None, metric)
    if groups is not None:
      moments = _append_whole(moments, len(state.averages.count) - 1)
    sample = estimates.estimate(moments, num_examples=num_examples)
    return updates, _add(state, sample, decay, level)

  return stateful.transformation(init_fn, update_fn, TrackMomentsState)


def _check(batch_size, reduction, decay, level, num_examples):
  if batch_size is not None:
    checks.positive('batch_size', batch_size, one=True)
  checks.choice('reduction', reduction, ('mean', 'sum'))
  checks.between('decay', decay, 0, 1, one=True)
  checks.between('level', level, 0, 1, one=True)
  if num_examples is not None:
    is_known = batch_size is not None and not isinstance(
      batch_size, jax.core.Tracer)
    checks.at_least('num_examples', num_examples,
                    max(1, np.max(batch_size)) if is_known else 1, one=True)


def _is_alone(updates, axis_name):
  """Return whether there is nothing to compare an update with."""
  workers.check_private(updates, axis_name)
  return not jax.tree.leaves(updates) or workers.num_workers(axis_name) == 1


def _measure(
    updates, axis_name, batch_size, reduction, layout, params, metric):
  if axis_name is None:
    raise ValueError(
      'moments=None: without axis_name, update needs moments to track')
  if batch_size is None:
    raise ValueError(
      'batch_size=None: must be given to track_moments or to update')
  return moments_lib.worker_moments(
    updates, axis_name, batch_size=batch_size, reduction=reduction,
    layout=layout, params=params, metric=metric)


def decode_names(encoded_names: jax.Array | tuple[()]) -> tuple[str, ...]:
  """Read the names of the groups off a state; () without groups."""
  if isinstance(encoded_names, tuple):
    return ()
  array = np.asarray(encoded_names)
  # States with a leading axis, as of several runs at once, have equal rows.
  first = array.reshape(-1, array.shape[-1])[0]
  return tuple(first.tobytes().decode().split('\0')[1:])


def _encode(names):
  """Encode names as an array, never of size zero: orbax cannot save that."""
  text = '.' + ''.join('\0' + name for name in names)
  return jnp.array(np.frombuffer(text.encode(), np.uint8))


def _init_rows(empty, names):
  """Return empty sums, with a row for each group and one for the whole."""
  if names is None:
    return empty
  return jax.tree.map(lambda x: jnp.tile(
    x, (len(names) + 1, *x.ndim * (1,))), empty)


def _append_whole(moments, num_groups):
  """Append the moments of the whole gradient to those of its groups."""
  shape = jnp.shape(moments.sq_norm_of_mean)
  if shape != (num_groups,):
    raise ValueError(f'moments of shape {shape}: must have one entry for each '
                     f'of the {num_groups} groups of the state')
  n, b, of_mean, deviation = (jnp.broadcast_to(x, shape) for x in moments)
  # Of no group at all, as of a tree without leaves, nothing can be estimated.
  one = lambda x: jnp.append(x, x[:1] if num_groups else jnp.float32(1))
  total = lambda x: jnp.append(x, jnp.sum(x))
  return moments_lib.Moments(one(n), one(b), total(of_mean), total(deviation))


def _add(state, sample, decay, level):
  """Add a step to the sums unless it is not finite."""
  add = lambda averages, windows, sample: (
    averages_lib.update(averages, sample, decay),
    windows_lib.update(windows, sample))
  total = sample.sq_norm + sample.variance
  if total.ndim:
    add = jax.vmap(add)
    total = total[-1]
  is_finite = jnp.isfinite(total)
  # A select, not a cond: workers must not part before a collective.
  old = state.averages, state.windows
  averages, windows = trees.select(is_finite, add(*old, sample), old)
  skipped = counting.increment(state.num_skipped)
  return state._replace(
    num_skipped=jnp.where(is_finite, state.num_skipped, skipped),
    averages=averages,
    windows=windows,
    level=jnp.array(level, jnp.float32))
