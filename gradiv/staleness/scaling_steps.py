"""Scale updates by a function of their staleness."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, stateful, trees


def scale_by_staleness(
  rule: Callable[[jax.Array], jax.typing.ArrayLike],
) -> optax.GradientTransformationExtraArgs:
  """Multiply each update by a factor that depends on its staleness.

  The staleness is an extra argument of ``update``: one number, or a tree with
  one per leaf. `with_staleness` passes it on from a delay in the same chain,
  and `replay` passes it to its optimizer.

  >>> from gradiv.staleness import cap_staleness
  >>> tx = scale_by_staleness(lambda steps: cap_staleness(steps, 2))
  >>> update, _ = tx.update(jnp.float32(1.), tx.init(0.), staleness=4)
  >>> float(update)  # 2 / max(2, 4)
  0.5

  Args:
    rule: Function from τ to the factor; see `gradiv.staleness.cap_staleness`,
      `limit_late_steps` and `divide_by_staleness`.

  Raises:
    ValueError: While tracing, if no staleness is passed.
  """
  if not callable(rule):
    raise ValueError(f'rule={rule!r}: must be a function of the staleness')

  def update_fn(updates, state, params=None, *, staleness=None, **extra_args):
    del params, extra_args
    if staleness is None:
      raise ValueError('staleness=None: must be passed to update, for example '
                       'by gradiv.staleness.with_staleness')
    trees.check_floating(updates, 'update', or_complex=True)
    one = lambda g, s: (trees.widen(g) * rule(jnp.asarray(s))).astype(g.dtype)
    return map_with_staleness(one, staleness, updates), state

  return optax.GradientTransformationExtraArgs(
    optax.init_empty_state, update_fn)


class WithStalenessState(NamedTuple):
  """State of `with_staleness`.

  Attributes:
    delay: State of the delay.
    inner: State of the transformation that follows it.
  """

  delay: Any
  inner: Any


def with_staleness(
  delay: optax.GradientTransformation,
  inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Delay updates, then pass their staleness to the transformation behind.

  Use it instead of `optax.chain(delay, inner)` if `inner` holds
  `scale_by_staleness`: a chain does not pass a value from one member to the
  next.

  >>> import gradiv
  >>> from gradiv.staleness import cap_staleness
  >>> tx = with_staleness(
  ...     gradiv.delay_updates(4),
  ...     optax.chain(scale_by_staleness(lambda s: cap_staleness(s, 2)),
  ...                 optax.sgd(1.)))
  >>> state = tx.init(jnp.zeros(()))
  >>> for g in range(6):
  ...   update, state = tx.update(jnp.float32(g), state)
  >>> float(update)  # the gradient 1 of four steps ago, times 2 / max(2, 4)
  -0.5

  Args:
    delay: A transformation whose state has a field `staleness`, such as
      `delay_updates`.
    inner: The transformation that follows, such as a chain with the optimizer.

  Raises:
    ValueError: At ``init``, if the state of `delay` has no field `staleness`.
  """
  delay = checks.transformation('delay', delay)
  inner = checks.transformation('inner', inner)

  def init_fn(params):
    state = WithStalenessState(delay.init(params), inner.init(params))
    if not hasattr(state.delay, 'staleness'):
      raise ValueError(f'delay={delay!r}: its state must have a field '
                       'staleness, as that of delay_updates has')
    return state

  def update_fn(updates, state, params=None, **extra_args):
    updates, delayed = delay.update(updates, state.delay, params, **extra_args)
    assert hasattr(delayed, 'staleness')  # as `init` has checked
    updates, rest = inner.update(
      updates, state.inner, params,
      **(extra_args | {'staleness': delayed.staleness}))
    return updates, WithStalenessState(delayed, rest)

  return stateful.transformation(init_fn, update_fn, WithStalenessState)


def map_with_staleness(
  fn: Callable[..., Any], staleness: Any, tree: Any, *rest: Any
) -> Any:
  """Map ``fn(*leaves, τ)``, with one staleness for all leaves or one each.

  Those of the leaves are matched in order, so that a tree will do as well as
  the tuple that `delay_updates` keeps.
  """
  if jax.tree.structure(staleness) == jax.tree.structure(0):
    return jax.tree.map(lambda *xs: fn(*xs, staleness), tree, *rest)
  treedef, steps = jax.tree.structure(tree), jax.tree.leaves(staleness)
  if len(steps) != treedef.num_leaves:
    raise ValueError(
      f'staleness of {len(steps)} leaves: must be one number, or one for each '
      f'of the {treedef.num_leaves} leaves')
  return jax.tree.map(fn, tree, *rest, treedef.unflatten(steps))
