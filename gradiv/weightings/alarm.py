"""An alarm that names a worker whose gradients are not like the others'.

A broken device, a shard of wrong labels or a rank that sends old gradients
trains on without an error. The Gram matrix that a rule decides from shows it,
for no extra traffic: `with_alarm` puts the alarm around the rule, and
`read_alarm` reads it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks, counting, trees
from gradiv.weightings import _evidence, _numbers, _outliers, weighting


class AlarmState(NamedTuple):
  """State of `with_alarm`; `read_alarm` says what it means.

  Attributes:
    count: int32, steps so far.
    log_sums: Evidence against each worker, [scores, stakes, n].
    limit: log of the evidence at which a worker is named.
    records: Largest scores of the former and of this window, [scores, 2].
    num_jumps: Jumps of each worker so far, [n], int32.
    last_jump: Step of each worker's last jump, [n], int32; -1 before the first.
    cosine: Leave-one-out cosines of the last step, [n].
    norm: Norms of the last step, over their median, [n].
    then: State of the rule.
  """

  count: jax.Array
  log_sums: jax.Array
  limit: jax.Array
  records: jax.Array
  num_jumps: jax.Array
  last_jump: jax.Array
  cosine: jax.Array
  norm: jax.Array
  then: Any


class Alarm(NamedTuple):
  """What `read_alarm` reads. With groups, arrays have a leading axis [groups].

  Attributes:
    worker: Index of the worker that is named, int32; -1 if none is.
    evidence: Number of steps in which healthy workers show as much against one
      of them once, on average, or more; [n].
    num_jumps: Steps so far in which the worker's gradient jumped, [n].
    last_jump: The last of these steps, counted from 0, [n]; -1 if there is
      none.
    cosine: Cosine of the worker's gradient and the mean direction of the
      others, in the last step, [n]; NaN for one that was left out.
    norm: Its norm over the median, in the last step, [n]; likewise.
  """

  worker: jax.Array
  evidence: jax.Array
  num_jumps: jax.Array
  last_jump: jax.Array
  cosine: jax.Array
  norm: jax.Array


def with_alarm(
  then: weighting.Weighting,
  *,
  steps_to_false_alarm: jax.typing.ArrayLike = 1e5,
  jump: jax.typing.ArrayLike = 2.0,
) -> weighting.Weighting:
  """Watch the workers beside another rule, whose weights stay as they are.

  Use it in long runs on many devices, to learn which worker to look at. The
  alarm says that a worker differs and not why: a worker with data of its own
  kind is named as well. It acts on nothing; choose a rule that bears faults for
  that (docs/robustness.md).

  Two things are watched:

  * **What lasts.** At each step, one worker has the longest gradient, one the
    shortest, one the lowest and one the highest cosine with the mean direction
    of the others, and some may be not finite. Workers that draw their examples
    alike are equally likely to be this one. Fair bets that it is worker i gain
    if it is i more often than one step in n; their sum over the past is the
    evidence against i. With healthy workers, the first false alarm takes at
    least `steps_to_false_alarm` steps on average, whatever the distribution of
    the gradients and however it drifts. Of eight workers, one that is the last
    in every step is named after about ten. Workers that differ by rounding
    alone share a place.
  * **Jumps**, such as a flipped bit. A worker jumps if its log norm, or its
    cosine, is `jump` times farther from the median than any worker's in the
    last 512 to 1,024 steps. There are four such scores, so for gradients that
    do not drift this happens by chance in about four steps of 512 at most with
    ``jump=1``. With 2 it did not happen in 10⁵ steps in all, of normal,
    exponential and Laplace log norms and 4 or 8 workers. Jumps are counted from
    step 512 on.

  Args:
    then: The rule whose weights are used, such as `mean()`.
    steps_to_false_alarm: Average number of steps after which healthy workers
      may raise a false alarm.
    jump: Factor of a jump, at least 1.

  Returns:
    A weighting with an `AlarmState`, which needs to know n, at least 3. With
    `Layout.groups`, each group has an alarm of its own.

  Shin, Ramdas, Rinaldo, `E-detectors: a nonparametric framework for sequential
  change detection <https://arxiv.org/abs/2203.03532>`_, 2022.

  >>> import gradiv
  >>> from gradiv import weightings
  >>> tx = gradiv.aggregate_by_weights(
  ...   with_alarm(weightings.mean()), 'workers', num_workers=4)
  >>> grads = jax.random.normal(jax.random.key(0), (20, 4, 100))
  >>> grads = grads.at[:, 2].multiply(0.5)  # worker 2 has half the noise
  >>> state = tx.init(grads[0, 0])
  >>> step = jax.jit(jax.vmap(
  ...   tx.update, (0, None), out_axes=None, axis_name='workers'))
  >>> for g in grads:
  ...   _, state = step(g, state)
  >>> int(read_alarm(state).worker)
  2
  """
  weighting.check('then', then)
  checks.at_least('steps_to_false_alarm', steps_to_false_alarm, 1, one=True)
  checks.at_least('jump', jump, 1, one=True)
  steps_to_false_alarm, jump = map(
    _numbers.as_float, (steps_to_false_alarm, jump))

  def step(gram, present, state, key):
    weights, inner = then.step(gram, present, state.then, key)
    n = len(present)
    seen = _outliers.measure(gram[:n, :n], present)
    limit = jnp.log(jnp.float32(steps_to_false_alarm)) + math.log(n)
    # A worker that is left out has the score 1 of its own kind.
    log_sums = _evidence.update(
      state.log_sums, jnp.vstack([seen.scores, ~present]),
      jnp.vstack([seen.takes_part, jnp.ones(n, bool)]), limit)
    jumped, records = _outliers.find_jumps(
      seen, state.records, state.count, jump)
    return weights, AlarmState(
      count=counting.increment(state.count),
      log_sums=log_sums, limit=limit, records=records,
      num_jumps=counting.increment(state.num_jumps, jumped),
      last_jump=jnp.where(jumped, state.count, state.last_jump),
      cosine=seen.cosine, norm=seen.norm, then=inner)

  def init(num_gradients):
    checks.count('num_workers', num_gradients, 3)
    unknown = lambda: jnp.full(num_gradients, jnp.nan, jnp.float32)
    return AlarmState(
      count=jnp.zeros((), jnp.int32),
      log_sums=_evidence.init(_outliers.NUM_SCORES + 1, num_gradients),
      limit=jnp.full((), jnp.inf, jnp.float32),
      records=_outliers.no_records(),
      num_jumps=jnp.zeros(num_gradients, jnp.int32),
      last_jump=jnp.full(num_gradients, -1, jnp.int32),
      cosine=unknown(), norm=unknown(), then=then.init(num_gradients))

  return weighting.Weighting(
    step, init, num_extra=then.num_extra, needs_key=then.needs_key,
    needs_size=True)


def read_alarm(opt_state: Any) -> Alarm:
  """Read the alarm of `with_alarm` from an optimizer's state.

  Works inside and outside of `jit`. If `worker` is not -1, look at that
  worker's device and data; `gradiv.example_sq_norms` on its batch shows which
  examples have the longest gradients.

  Args:
    opt_state: Any tree that contains exactly one `AlarmState`, such as the
      state of a chain.

  Raises:
    ValueError: If there is no `AlarmState`, or more than one.

  >>> from gradiv import weightings
  >>> rule = with_alarm(weightings.mean())
  >>> int(read_alarm(rule.init(4)).worker)  # Nothing is known yet.
  -1
  """
  state = trees.only_state(opt_state, AlarmState, 'with_alarm')
  state = trees.unwrapped(state._replace(then=()))
  log_sums = _evidence.of_workers(state.log_sums)
  worker = jnp.argmax(log_sums, -1).astype(jnp.int32)
  is_named = jnp.max(log_sums, -1) >= state.limit
  return Alarm(
    worker=jnp.where(is_named, worker, -1),
    evidence=jnp.exp(log_sums) / log_sums.shape[-1],
    num_jumps=state.num_jumps, last_jump=state.last_jump,
    cosine=state.cosine, norm=state.norm)
