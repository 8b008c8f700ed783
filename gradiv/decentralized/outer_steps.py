"""Steps of each worker's own, and an outer step on their mean now and then."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.decentralized import gossip, mixing


class OuterStepState(NamedTuple):
  """State of `mix_by_outer_step`; the same for all workers.

  Attributes:
    count: Steps so far.
    anchor: θ, the common parameters, in at least float32.
    pending: Mean pseudo-gradients between their all-reduce and the outer step;
      () where there is no delay.
    outer: States of the outer optimizer, one a fragment.
  """

  count: jax.Array
  anchor: optax.Params
  pending: Any
  outer: tuple


def mix_by_outer_step(
  outer: optax.GradientTransformation,
  period: int,
  axis_name: workers.AxisName,
  *,
  num_fragments: int = 1,
  fragment_of: Callable[[tuple], int] | None = None,
  delay: int = 0,
  blend: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Let workers step alone, and every H steps step from where all began.

  With the common parameters θ and the workers' x_i after H steps of their own:

    Δ = θ − (1/n) Σ x_i,   θ ← θ + outer(Δ),   x_i ← (1 − a) θ + a x_i

  It stands last in each worker's chain, and all workers start alike: θ is what
  `init` is given. Streamed: of F fragments of the
  parameters one is synchronized every H/F steps, in turn, and Δ is taken
  `delay` steps before it is used, so that the all-reduce of a fragment has that
  long, and a share a of the steps made meanwhile is kept.

  `local_sgd`, `slow_momentum` and `diloco` are made of it. With a period of 1,
  ``outer=optax.sgd(1.0)`` and plain SGD before it this is synchronous SGD.

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_outer_step(
  ...     optax.sgd(1.0), period=2, axis_name='workers'))
  >>> def run(c):
  ...   x = jnp.zeros(())
  ...   state = tx.init(x)
  ...   for _ in range(2):
  ...     updates, state = tx.update(x - c, state, x)
  ...     x = optax.apply_updates(x, updates)
  ...   return x
  >>> gradiv.map_workers(run, 'workers')(jnp.array([0., 4.])).tolist()
  [1.5, 1.5]

  Douillard et al., `DiLoCo <https://arxiv.org/abs/2311.08105>`_, 2023, and
  `Streaming DiLoCo <https://arxiv.org/abs/2501.18512>`_, 2025.

  Args:
    outer: Optimizer of θ; each fragment has a state of its own.
    period: H, between two outer steps of a fragment.
    axis_name: The axis, or axes, over which the workers lie.
    num_fragments: F, a divisor of `period`.
    fragment_of: Path of a leaf -> its fragment, from 0; by default leaves are
      dealt out in order, in runs of about equal size.
    delay: Steps between Δ and its use, below H/F.
    blend: a, from 0 to 1, of which nothing is taken over from the others.

  Raises:
    ValueError: On a bad argument; at `init`, on a fragment that is none of
      0 ... F − 1; and, while tracing, where no parameters are given.
  """
  workers.names_of(axis_name)
  checks.count('period', period, 1)
  checks.count('num_fragments', num_fragments, 1)
  if period % num_fragments:
    raise ValueError(f'num_fragments={num_fragments!r}: must be a divisor of '
                     f'period={period!r}')
  checks.count('delay', delay, 0)
  if delay >= period // num_fragments:
    raise ValueError(f'delay={delay!r}: must be below period/num_fragments='
                     f'{period // num_fragments}')
  checks.within('blend', blend, 0, 1)
  outer = optax.with_extra_args_support(outer)

  def split(params):
    """List, by fragment, the places of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if fragment_of is not None:
      where = [fragment_of(path) for path, _ in leaves]
      if not {*where} <= {*range(num_fragments)}:
        raise ValueError(f'fragment_of gives {sorted({*where}, key=str)}: must '
                         f'be from 0 to {num_fragments - 1}')
    else:
      sizes = np.array([x.size for _, x in leaves], int)
      middles = 2 * sizes.cumsum() - sizes
      where = np.minimum(middles * num_fragments // max(2 * sizes.sum(), 1),
                         num_fragments - 1)
    return [[i for i, f in enumerate(where) if f == fragment]
            for fragment in range(num_fragments)]

  def init_fn(params):
    anchor = jax.tree.map(
      lambda x: jnp.array(trees.widen(x), copy=True), params)
    leaves = jax.tree.leaves(anchor)
    states = tuple(outer.init([leaves[i] for i in places])
                   for places in split(params))
    pending = jax.tree.map(jnp.zeros_like, anchor) if delay else ()
    return OuterStepState(jnp.zeros((), jnp.int32), anchor, pending, states)

  def update_fn(updates, state, params=None, **extra_args):
    gossip.check_given(params)
    count = optax.safe_increment(state.count)
    x = jax.tree.leaves(jax.tree.map(
      lambda x, u, anchor: (x + u).astype(anchor.dtype), params, updates,
      state.anchor))
    anchor, treedef = jax.tree.flatten(state.anchor)
    pending, states = jax.tree.leaves(state.pending), list(state.outer)
    private = lambda tree: workers.as_private(tree, axis_name)
    take = lambda leaves, places: [leaves[i] for i in places]

    def put(leaves, places, values):
      for i, value in zip(places, values):
        leaves[i] = value

    for f, places in enumerate(split(params)):
      due = (f + 1) * (period // num_fragments) % period
      begin, mine = take(anchor, places), take(x, places)

      def pseudo_gradient(begin=begin, mine=mine):
        return mixing.mean(
          jax.tree.map(jnp.subtract, begin, mine), axis_name)

      # All workers count alike, and take the same branch.
      if delay:
        kept = take(pending, places)
        put(pending, places, lax.cond(
          (count + delay) % period == due, pseudo_gradient,
          lambda kept=kept: private(kept)))

      def synchronize(f=f, begin=begin, mine=mine, places=places,
                      pseudo_gradient=pseudo_gradient):
        delta = take(pending, places) if delay else pseudo_gradient()
        step, new = outer.update(delta, states[f], begin, **extra_args)
        end = optax.apply_updates(begin, step)
        blended = jax.tree.map(
          lambda common, own: (1 - blend) * common + blend * own, end, mine)
        return private((blended, end, new))

      mixed, end, states[f] = lax.cond(
        count % period == due, synchronize,
        lambda f=f, begin=begin, mine=mine: private((mine, begin, states[f])))
      put(x, places, mixed)
      put(anchor, places, end)
    moved = jax.tree.map(lambda new, x: (new - x).astype(x.dtype),
                         treedef.unflatten(x), params)
    pending = treedef.unflatten(pending) if delay else ()
    return moved, OuterStepState(
      count, treedef.unflatten(anchor), pending, tuple(states))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def local_sgd(
  period: int, axis_name: workers.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Average all workers' parameters every so many steps.

  They are to start alike: see `mix_by_outer_step`. With neighbours in place of
  all, give `mix_by_gossip` a sequence of identities and one mixing matrix.

  >>> import gradiv
  >>> tx = local_sgd(2, 'workers')
  >>> def run(u):
  ...   x, path = jnp.zeros(()), []
  ...   state = tx.init(x)
  ...   for _ in range(4):
  ...     updates, state = tx.update(u, state, x)
  ...     x = x + updates
  ...     path.append(x)
  ...   return jnp.stack(path)
  >>> gradiv.map_workers(run, 'workers')(jnp.array([1., 3.])).tolist()
  [[1.0, 4.0, 5.0, 8.0], [3.0, 4.0, 7.0, 8.0]]

  Stich, `Local SGD Converges Fast and Communicates Little
  <https://arxiv.org/abs/1805.09767>`_, 2018.
  """
  return mix_by_outer_step(optax.sgd(1.0), period, axis_name)


def slow_momentum(
  period: int,
  axis_name: workers.AxisName,
  *,
  momentum: float,
  learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
  """Add momentum from one average to the next: SlowMo.

  u ← β u + Δ,  θ ← θ − a u, with u in units of parameters; where the inner
  learning rate changes, the paper's u, in units of gradients, differs.

  >>> import gradiv
  >>> tx = slow_momentum(1, 'workers', momentum=0.5)
  >>> def run(u):
  ...   updates, state = tx.update(u, tx.init(0 * u), 0 * u)
  ...   return updates, tx.update(u, state, updates)[0]
  >>> jax.tree.map(lambda x: x.tolist(), gradiv.map_workers(run, 'workers')(
  ...     jnp.array([1., 3.])))
  ([2.0, 2.0], [3.0, 3.0])

  Wang et al., `SlowMo: Improving Communication-Efficient Distributed SGD with
  Slow Momentum <https://arxiv.org/abs/1910.00643>`_, 2019.

  Args:
    period: Steps between two averages.
    axis_name: The axis, or axes, over which the workers lie.
    momentum: β, from 0 to below 1.
    learning_rate: a, or a schedule by the number of averages.

  Raises:
    ValueError: On a bad argument.
  """
  return mix_by_outer_step(
    _outer_sgd(learning_rate, momentum, nesterov=False), period, axis_name)


def diloco(
  period: int,
  axis_name: workers.AxisName,
  *,
  learning_rate: optax.ScalarOrSchedule = 0.7,
  momentum: float = 0.9,
  **streaming: Any,
) -> optax.GradientTransformationExtraArgs:
  """Take outer steps of Nesterov momentum: DiLoCo, or Streaming DiLoCo.

  >>> import gradiv
  >>> tx = optax.chain(optax.adamw(4e-4), diloco(
  ...     48, 'workers', num_fragments=4, delay=2, blend=0.5))
  >>> tx = diloco(1, 'workers', learning_rate=0.5, momentum=0.0)
  >>> gradiv.map_workers(lambda u: tx.update(u, tx.init(0 * u), 0 * u)[0],
  ...                    'workers')(jnp.array([1., 3.])).tolist()
  [1.0, 1.0]

  Douillard et al., `DiLoCo <https://arxiv.org/abs/2311.08105>`_, 2023, and
  `Streaming DiLoCo <https://arxiv.org/abs/2501.18512>`_, 2025.

  Args:
    period: H, steps between two outer steps.
    axis_name: The axis, or axes, over which the workers lie.
    learning_rate: Of the outer steps, or a schedule by their number.
    momentum: Of the outer steps, from 0 to below 1.
    **streaming: Of `mix_by_outer_step`: num_fragments, fragment_of, delay,
      blend.

  Raises:
    ValueError: On a bad argument.
  """
  return mix_by_outer_step(
    _outer_sgd(learning_rate, momentum, nesterov=True), period, axis_name,
    **streaming)


def _outer_sgd(learning_rate, momentum, nesterov):
  checks.fraction('momentum', momentum)
  if not callable(learning_rate):
    checks.positive('learning_rate', learning_rate)
  return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
