"""Any rule that is a function of the workers' Gram matrix."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import weightings, workers
from gradiv._common import (
  checks,
  counting,
  draws,
  layout as layouts,
  stateful,
)
from gradiv.aggregation import _decisions
from gradiv.aggregation._exchange import collecting, finite, membership


class AggregateState(NamedTuple):
  """State of `aggregate_by_weights`, and what it decided in the last step.

  With `Layout.groups`, the fields from `num_agreed` to `weights`, and the
  leaves of `rule`, have a leading axis [groups] in the order of
  `gradiv.group_names`.

  Attributes:
    count: Number of steps so far.
    num_left_out: Number of gradients left out so far because they were not
      finite.
    num_empty: Number of steps so far in which all weights were zero.
    ready: Whether any worker's weight was not zero.
    num_agreed: Number of workers whose weight was not zero.
    effective_size: (Σ w_i)² / Σ w_i², the number of gradients that an equally
      weighted sum with the same variance would have.
    mean_cosine: Mean cosine over all pairs of gradients that are not zero; NaN
      if there is none, and for rules of differences, whose Gram matrix is not
      relative to the origin.
    weights: Weights of the workers and of the extra rows; () unless
      `num_workers` was given.
    rng_key: The key; () unless one was given.
    rule: State of the weighting.
    last: The last update, for rules that look back at it; else ().
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
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Sum the workers' gradients with weights decided from their Gram matrix.

  Use it for any rule in `gradiv.weightings`, or for one of your own. u =
  Σ w_i g_i with w = weighting(G), G_ij = ⟨g_i, g_j⟩. The matrix is exact, and
  the step costs the traffic of one all-reduce plus n² numbers, and the memory
  of one more gradient. Weights are decided and gradients summed in float32;
  what is sent has the dtype of the gradient. Each element of u is computed by
  one worker and sent to the others, so all apply the same update.

  Args:
    weighting: One of `gradiv.weightings`, or any function from a Gram matrix
      [n, n] to weights [n]. The function sees zeros for a worker that is left
      out, and the weight it returns for that worker is ignored.
    axis_name: Axis, or axes, of the workers. The exchange is fast for two to
      eight workers; with more, average over some first (`Layout.mean_over`).
    key: Key for weightings that draw. It is folded by the step alone, so give
      each rule a key of its own: two rules with the same key draw alike.
    num_workers: Number of workers. Required by weightings whose state depends
      on it, such as `weightings.adacons`; if given, the state also records the
      weights.
    extra: Names of the extra arguments of `update` that hold the extra rows of
      a weighting: finite trees like the gradient, the same on all workers.
      'last' is the last update, and the default for a single extra row.
    sharded: Whether to return each worker's slice of the update alone, cut as
      `slice_leaves` cuts the parameters; saves the all-gather (ZeRO).
    layout: Layout of the gradients. With `groups`, weights are decided for
      each group separately.

  Raises:
    ValueError: If the weighting needs an argument that is missing or, while
      tracing, if an extra tree is missing or does not match the gradient.

  >>> tx = aggregate_by_weights(weightings.mean(), 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 2.], [3., 6.], [jnp.nan, 0.]])).tolist()
  [2.0, 4.0]

  The third worker is left out.
  """
  rule = _rule(weighting)
  if extra is None:
    extra = ('last',) if rule.num_extra == 1 else ()
  _check(rule, extra, key, num_workers, sharded)
  aggregation = _Aggregation(
    rule, membership.Participants.of(axis_name, layout), extra, key,
    num_workers, sharded)
  return stateful.transformation(
    aggregation.init, aggregation.update, AggregateState)


@dataclasses.dataclass(frozen=True)
class _Aggregation:
  """The arguments of `aggregate_by_weights`, checked."""

  rule: weightings.Weighting
  participants: membership.Participants
  extra: tuple[str, ...]
  key: jax.Array | None
  num_workers: int | None
  sharded: bool

  def _rule_state(self) -> Any:
    try:
      return self.rule.init(self.num_workers)
    except TypeError as error:
      if self.num_workers is not None:
        raise
      raise ValueError('num_workers=None: must be given, as the state of this '
                       'weighting seems to depend on it') from error

  def init(self, params: optax.Params) -> AggregateState:
    groups = (() if self.participants.layout.groups is None
              else (self.participants.num_groups(params),))
    per_group = lambda *shape: jnp.zeros((*groups, *shape), jnp.float32)
    # A copy of each leaf: a state may be donated, a weighting's own arrays
    # must not be.
    spread = lambda x: jnp.array(
      jnp.broadcast_to(x, (*groups, *jnp.shape(x))), copy=True)
    return AggregateState(
      count=jnp.zeros((), jnp.int32),
      num_left_out=jnp.zeros((), jnp.int32),
      num_empty=jnp.zeros((), jnp.int32),
      ready=jnp.zeros((), bool),
      num_agreed=jnp.zeros(groups, jnp.int32),
      effective_size=per_group(),
      mean_cosine=per_group(),
      weights=() if self.num_workers is None else per_group(
        self.num_workers + self.rule.num_extra),
      rng_key=() if self.key is None else draws.copy_key(self.key),
      rule=jax.tree.map(spread, self._rule_state()),
      last=optax.tree.zeros_like(params) if 'last' in self.extra else ())

  def update(self, updates, state, params=None, **extra_args):
    del params
    extra = self._find_extra(updates, extra_args | {'last': state.last})
    _check_num_workers(self.participants.count, self.num_workers)
    # Slices are those of the workers, whatever the number of their members.
    contribute = (
      finite.contribute_mean if self.sharded else finite.contribute)
    updates, (_, (decision, rule_state)), num_left_out = collecting.exchange(
      contribute(updates, self.participants), self.rule, extra,
      functools.partial(self._decide, state), sharded=self.sharded)
    last = jax.tree.map(lambda new, old: new.astype(old.dtype), updates,
                        state.last) if 'last' in self.extra else ()
    ready = jnp.any(decision.num_agreed > 0)
    return updates, AggregateState(
      count=counting.increment(state.count),
      num_left_out=counting.increment(
        state.num_left_out, num_left_out),
      num_empty=counting.increment(state.num_empty, ~ready),
      ready=ready,
      num_agreed=decision.num_agreed,
      effective_size=decision.effective_size,
      mean_cosine=decision.mean_cosine,
      weights=() if self.num_workers is None else decision.weights,
      rng_key=state.rng_key, rule=rule_state, last=last)

  def _find_extra(self, updates, known):
    """Return the extra trees, checked against the gradient."""
    shapes = lambda tree: (jax.tree.structure(tree),
                           [jnp.shape(x) for x in jax.tree.leaves(tree)])
    for name in self.extra:
      if name not in known:
        raise ValueError(f'extra={self.extra}: update was not given {name}=')
      if shapes(known[name]) != shapes(updates):
        raise ValueError(
          f'extra={self.extra}: {name} must be a tree like the gradient')
    return [known[name] for name in self.extra]

  def _decide(self, state, groups, grams, present):
    """Return the weights of some groups, and all that was decided."""
    key = (None if self.key is None
           else jax.random.fold_in(state.rng_key, state.count))
    if self.participants.layout.groups is None:
      decided = _decisions.decide(
        self.rule, grams[0], present, state.rule, key)
      return [decided[0].weights], decided
    decided = _decisions.decide_by_group(
      self.rule, groups, grams, present, state.rule, key)
    return decided[0].weights, decided


def _rule(weighting):
  """Return the weighting, or make one of a function of the Gram matrix."""
  if isinstance(weighting, weightings.Weighting):
    return weighting
  name = getattr(weighting, '__name__', '')
  if getattr(weightings, name, None) is weighting:
    raise ValueError(f'weighting={name}: call it to make a weighting, as in '
                     f'weightings.{name}(...)')
  if not callable(weighting):
    raise ValueError(f'weighting={weighting!r}: must be one of '
                     'gradiv.weightings, or a function of the Gram matrix')
  return weightings.stateless(lambda gram, present: weighting(gram))


def _check(rule, extra, key, num_workers, sharded):
  rule.check_key(key)
  if key is not None:
    checks.key('key', key)
  if isinstance(extra, str) or len(extra) != rule.num_extra:
    raise ValueError(f'extra={extra!r}: must be the names of the '
                     f'{rule.num_extra} extra rows of this weighting')
  if sharded and extra:
    raise ValueError(f'sharded={sharded} with extra={extra}: the extra trees '
                     'are whole, so the updates must be')
  if num_workers is not None:
    checks.count('num_workers', num_workers, 1)
  if num_workers is None and rule.needs_size:
    raise ValueError('num_workers=None: must be given, as the state of this '
                     'weighting depends on it')


def _check_num_workers(actual, declared):
  if declared not in (None, actual):
    raise ValueError(f'num_workers={declared}: must be {actual}, as the axis '
                     'has')
