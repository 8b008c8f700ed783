"""`Weighting`: a rule from the Gram matrix of n gradients to n weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def _no_state(num_gradients: int | None) -> tuple[()]:
  del num_gradients
  return ()


@dataclasses.dataclass(frozen=True)
class Weighting:
  """A rule that turns the Gram matrix of n gradients into n weights.

  Call it on a Gram matrix to get the weights of the update Σ w_i g_i, or pass
  it to `gradiv.aggregate_by_weights`. Use `stateless` to create one from a
  function; create a `Weighting` yourself for a rule with memory, with random
  numbers, or with extra rows.

  >>> def first_step_only(gram, present, count, key):
  ...   return jnp.where(count == 0, uniform(present), 0), count + 1
  >>> rule = Weighting(first_step_only, init=lambda n: jnp.int32(0))
  >>> rule(jnp.eye(2)).tolist()  # A call is always the first step.
  [0.5, 0.5]

  The flags after `step` and `init` describe the rule to
  `gradiv.aggregate_by_weights`, which exchanges less or more precise numbers
  accordingly. All are False or 0 by default, which is always safe for a rule
  that neither draws random numbers nor keeps a state that depends on n.

  Attributes:
    step: Function (gram, present, state, key) -> (weights, state). It must run
      inside `jax.jit`.

      * gram: [n + num_extra, n + num_extra], float32.
      * present: [n], bool. A gradient that is not present, such as one with a
        NaN, has a row and a column of zeros. Its weight is ignored; the other
        weights must be what they would be without it.
      * state: The state that `init` or the last step returned.
      * key: A `jax.random` key, different at each step; None unless the caller
        has one.
      * weights: [n + num_extra], float32.
    init: Function n -> state before the first step; () by default. n is None
      where the number of gradients is unknown, unless `needs_size` is set.
    of_differences: Whether the weights depend only on the differences
      g_i − g_j and add up to one. The rule then may receive the Gram matrix of
      g_i − c for any common c, in which small distances do not cancel.
    num_extra: Number of extra rows after those of the gradients, such as the
      last update or an anchor. The rule returns weights for them too.
    needs_key: Whether the rule draws random numbers; a key is then required.
    needs_size: Whether the state depends on n; `num_workers` is then required.
    equal_pair: Whether two present gradients always get equal weights. Two
      workers then need only the all-reduce of their sum.
  """

  step: Callable[..., tuple[jax.Array, Any]]
  init: Callable[..., Any] = _no_state
  _: dataclasses.KW_ONLY
  of_differences: bool = False
  num_extra: int = 0
  needs_key: bool = False
  needs_size: bool = False
  equal_pair: bool = False

  def __call__(
    self,
    gram: jax.typing.ArrayLike,
    *,
    present: jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Compute the weights for one Gram matrix, from the initial state.

    Args:
      gram: Gram matrix, [n + num_extra, n + num_extra].
      present: Which gradients take part, [n]; by default those with a finite
        squared norm.
      key: Key for rules that draw random numbers.

    Returns:
      The weights, [n + num_extra], float32; 0 for gradients not present.
    """
    gram = jnp.asarray(gram, jnp.float32)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
      raise ValueError(f'gram of shape {gram.shape}: must be square')
    n = gram.shape[0] - self.num_extra
    present = (jnp.isfinite(jnp.diagonal(gram))[:n] if present is None
               else jnp.asarray(present))
    self.check_key(key)
    kept = with_extra(present, self.num_extra)
    gram = jnp.where(kept[:, None] & kept[None, :], gram, 0)
    weights, _ = self.step(gram, present, self.init(n), key)
    return jnp.where(kept, weights, 0)

  def check_key(self, key: jax.Array | None) -> None:
    """Raise ValueError if this rule needs a key and there is none."""
    if self.needs_key and key is None:
      raise ValueError('key=None: this weighting draws random numbers and '
                       'needs a jax.random key')


def stateless(
  fn: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  of_differences: bool = False,
  num_extra: int = 0,
  equal_pair: bool = False,
) -> Weighting:
  """Create a `Weighting` from a function (gram, present) -> weights.

  Use it for a rule that counts the gradients, or must tell an absent one from
  one that is zero. `gradiv.aggregate_by_weights` takes a function of the Gram
  matrix alone as it is; that function sees zeros in both cases.

  >>> total = stateless(lambda gram, present: present.astype(jnp.float32))
  >>> total(jnp.eye(2)).tolist()  # The sum: each gradient counts once.
  [1.0, 1.0]

  Args:
    fn: The function; see `Weighting.step` for its arguments and its result.
    of_differences: See `Weighting`.
    num_extra: See `Weighting`.
    equal_pair: See `Weighting`.
  """
  if not callable(fn):
    raise ValueError(f'fn={fn!r}: must be a function (gram, present) -> '
                     'weights')
  return Weighting(
    lambda gram, present, state, key: (fn(gram, present), state),
    of_differences=of_differences, num_extra=num_extra, equal_pair=equal_pair)


def check(name: str, value: Any) -> None:
  """Raise ValueError unless the value of an argument is a `Weighting`."""
  if not isinstance(value, Weighting):
    raise ValueError(f'{name}={value!r}: must be a Weighting, such as '
                     'gradiv.weightings.mean()')


def with_extra(present: jax.Array, num_extra: int) -> jax.Array:
  """Extend `present` to the extra rows, which always take part.

  >>> with_extra(jnp.array([True, False]), 1).tolist()
  [True, False, True]
  """
  return jnp.concatenate([present, jnp.ones(num_extra, bool)])


def uniform(present: jax.Array) -> jax.Array:
  """Return equal weights for all present gradients, or zeros if none is.

  >>> uniform(jnp.array([True, False, True])).tolist()
  [0.5, 0.0, 0.5]
  """
  return present / jnp.maximum(present.sum(), 1).astype(jnp.float32)
