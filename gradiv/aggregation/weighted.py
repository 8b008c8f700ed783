"""Any rule that is a function of the workers' Gram matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import weightings, workers
from gradiv._common import checks
from gradiv.aggregation._exchange import gram, layout as wires, slices


class AggregateState(NamedTuple):
  """State of `aggregate_by_weights`, and what it decided last.

  With groups, a leading axis of one entry a group, in the order of the names.

  Attributes:
    count: Steps so far.
    num_left_out: Gradients left out so far, as they were not finite.
    num_empty: Steps so far in which all weights were zero.
    ready: Whether the weight of any worker was not zero.
    num_agreed: How many workers had a weight that was not zero.
    effective_size: (Σ w_i)² / Σ w_i², the gradients that the sum is worth.
    mean_cosine: Over all pairs of gradients that are not zero; NaN where there
      is none, and for rules of differences, which do not know where the origin
      is.
    weights: Of the workers and the extra rows, where `num_workers` was given.
    rng_key: The key, where one was given.
    rule: State of the weighting.
    last: The last update, for rules that look back at it.
  """

  count: jax.Array
  num_left_out: jax.Array
  num_empty: jax.Array
  ready: jax.Array
  num_agreed: jax.Array
  effective_size: jax.Array
  mean_cosine: jax.Array
  weights: Any
  rng_key: Any
  rule: Any
  last: Any


def aggregate_by_weights(
  weighting: weightings.Weighting | Callable[[jax.Array], jax.Array],
  axis_name: workers.AxisName,
  *,
  key: jax.Array | None = None,
  num_workers: int | None = None,
  extra: tuple[str, ...] | None = None,
  sharded: bool = False,
  **layout: Any,
) -> optax.GradientTransformationExtraArgs:
  """Sum the workers' gradients with weights that their Gram matrix decides.

  u = Σ w_i g_i with w = weighting(G), G_ij = ⟨g_i, g_j⟩: exact, for the
  traffic of an all-reduce and n² numbers, in the memory of one more gradient.
  Decided and summed in float32; what travels has the dtype of the gradient.
  Each element of u is computed by one worker and sent to the others, so all
  apply the same update, whatever their rounding.

  >>> tx = aggregate_by_weights(weightings.mean(), 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 2.], [3., 6.], [jnp.nan, 0.]])).tolist()
  [2.0, 4.0]

  Args:
    weighting: One of `gradiv.weightings`, or any function from [n, n] to [n].
      Such a function sees zeros for a worker that is left out, and the weight
      that it gives to it is not used.
    axis_name: The axis, or axes, over which the workers lie. Fast at two to
      eight workers a ring; average over further axes first, by `mean_over`.
    key: For weightings that draw; folded by the step.
    num_workers: Where given, the state tells the weights, and a weighting may
      keep a state that depends on n.
    extra: For weightings with extra rows: the names of extra arguments of
      `update`, finite trees like the gradient that all workers know. 'last' is
      the last update, and the default for one row.
    sharded: Leave the result in slices, as `slice_leaves` cuts the parameters,
      and save the all-gather (ZeRO).
    **layout: `mean_over`, `groups`, `sharded_over`, `is_sharded` of
      `gradiv.Wire`; with `groups`, each group is weighed by itself.

  Raises:
    ValueError: On a bad argument, or one that the weighting misses; and, while
      tracing, where an extra tree is missing or not like the gradient, or the
      gradient has been reduced over the axis already.
  """
  rule = weighting if isinstance(weighting, weightings.Weighting) else (
    weightings.stateless(lambda gram, present: weighting(gram)))
  if extra is None:
    extra = ('last',) if rule.num_extra == 1 else ()
  wire = wires.Wire.of(axis_name, layout, leaf_by_leaf=sharded)
  _check(rule, extra, key, num_workers, sharded)

  def init_fn(params):
    names = _group_names(params, wire.groups)
    spread = (lambda x: jnp.stack([x] * len(names))) if wire.groups else (
      lambda x: x)
    per_group = lambda *shape: spread(jnp.zeros(shape, jnp.float32))
    zero = jnp.zeros((), jnp.int32)
    return AggregateState(
      count=zero, num_left_out=zero, num_empty=zero,
      ready=jnp.zeros((), bool),
      num_agreed=spread(zero), effective_size=per_group(),
      mean_cosine=per_group(),
      weights=() if num_workers is None else per_group(
        num_workers + rule.num_extra),
      rng_key=() if key is None else key,
      rule=jax.tree.map(spread, rule.init(num_workers)),
      last=optax.tree.zeros_like(params) if 'last' in extra else ())

  def update_fn(updates, state, params=None, **extra_args):
    del params
    known = extra_args | {'last': state.last}
    _check_extra(updates, known, extra)
    _check_num_workers(workers.num_workers(axis_name), num_workers)
    admitted = wires.admit(updates, wire)
    grams, present, left_out, finish = _meet(
      admitted, rule, [known[name] for name in extra], sharded)
    names = _group_names(updates, wire.groups)
    step_key = (None if key is None
                else jax.random.fold_in(state.rng_key, state.count))
    decide = lambda *args: _decide(rule, present, *args)
    if wire.groups:
      stacked = jnp.stack([grams[name] for name in names])
      keys = (None if key is None else jax.vmap(
        jax.random.fold_in, (None, 0))(step_key, jnp.arange(len(names))))
      decision, rule_state = jax.vmap(decide)(stacked, state.rule, keys)
      weights = dict(zip(names, decision['weights']))
    else:
      decision, rule_state = decide(grams[''], state.rule, step_key)
      weights = {'': decision['weights']}
    updates = finish(weights)
    last = jax.tree.map(lambda new, old: new.astype(old.dtype), updates,
                        state.last) if 'last' in extra else ()
    ready = jnp.any(decision['num_agreed'] > 0)
    return updates, AggregateState(
      count=optax.safe_increment(state.count),
      num_left_out=state.num_left_out + left_out,
      num_empty=state.num_empty + jnp.where(ready, 0, 1),
      ready=ready,
      **decision | ({'weights': ()} if num_workers is None else {}),
      rng_key=state.rng_key, rule=rule_state, last=last)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _meet(admitted, rule, extra, sharded):
  """Exchange gradients: Gram matrices, who is present, how to sum them up."""
  by_sum = rule.equal_pair and not (rule.num_extra or sharded)
  if by_sum and wires.is_pair(admitted):
    grams, present, left_out, total = gram.gram_of_pair(admitted)
    # Whoever is not present is not in the sum.
    either = jnp.argmax(present)
    weight = lambda weights, path: weights[admitted.wire.group_of(path)][either]
    return grams, present, left_out, lambda weights: (
      jax.tree_util.tree_map_with_path(
        lambda path, s: s * weight(weights, path), total))
  met = slices.scatter(admitted, extra)
  grams, present, left_out = gram.gram_of(met, centred=rule.of_differences)
  put_together = slices.keep_sliced if sharded else slices.gather
  return grams, present, left_out, lambda weights: put_together(
    met, gram.weigh(met, weights))


def _decide(rule, present, matrix, state, key):
  """Weigh, and tell what was decided."""
  weights, state = rule.step(matrix, present, state, key)
  n = len(present)
  kept = weightings.with_extra(present, rule.num_extra)
  weights = jnp.where(kept, weights, 0).astype(jnp.float32)
  own = weights[:n]
  squares = jnp.sum(own**2)
  cosines = gram.pairwise_cosine(matrix[:n, :n])
  # A gradient of zero has no direction to compare.
  pairs = jnp.isfinite(cosines) & ~jnp.eye(n, dtype=bool)
  mean_cosine = (jnp.where(pairs, cosines, 0).sum() / pairs.sum()
                 if not rule.of_differences else jnp.float32(jnp.nan))
  return {
    'weights': weights,
    'num_agreed': jnp.sum(own != 0).astype(jnp.int32),
    'effective_size': jnp.where(
      squares > 0, own.sum()**2 / jnp.where(squares > 0, squares, 1), 0),
    'mean_cosine': mean_cosine,
  }, state


def _group_names(tree, groups):
  if not groups:
    return ['']
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return sorted({groups(path) for path, _ in paths})


def _check(rule, extra, key, num_workers, sharded):
  rule.check_key(key)
  if isinstance(extra, str) or len(extra) != rule.num_extra:
    raise ValueError(f'extra={extra!r}: must be the names of the '
                     f'{rule.num_extra} rows that this weighting takes')
  if sharded and extra:
    raise ValueError(f'sharded={sharded} with extra={extra}: the extra trees '
                     'are whole, so the updates must be')
  if num_workers is not None:
    checks.count('num_workers', num_workers, 1)
  if num_workers is None and rule.needs_size:
    raise ValueError('num_workers=None: the state of this weighting depends '
                     'on the number of workers')


def _check_extra(updates, known, extra):
  shapes = lambda tree: (jax.tree.structure(tree),
                         [jnp.shape(x) for x in jax.tree.leaves(tree)])
  for name in extra:
    if name not in known:
      raise ValueError(f'extra={extra}: update was not given {name}=')
    if shapes(known[name]) != shapes(updates):
      raise ValueError(
        f'extra={extra}: {name} must be a tree like the gradient')


def _check_num_workers(actual, declared):
  if declared not in (None, actual):
    raise ValueError(f'num_workers={declared}: the axis has {actual} workers')
