"""Promotion of dtypes: that of jax within the engine, the user's in the loss.

Under ``jax.numpy_dtype_promotion('strict')``, bfloat16 times float32 is an
error. The engine multiplies gradients by float32 on purpose.
"""

import contextvars
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

_CONFIG: Any = jax.config
_OF_USER: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'promotion', default=None)


def standard(fn: Callable) -> Callable:
  """Let a function promote dtypes as jax does by default."""
  @functools.wraps(fn)
  def run(*args, **kwargs):
    token = _OF_USER.set(_CONFIG.jax_numpy_dtype_promotion)
    try:
      with jax.numpy_dtype_promotion('standard'):
        return fn(*args, **kwargs)
    finally:
      _OF_USER.reset(token)

  return run


def of_user() -> AbstractContextManager[Any]:
  """Return the promotion of the caller of the innermost `standard` function."""
  return jax.numpy_dtype_promotion(
    _OF_USER.get() or _CONFIG.jax_numpy_dtype_promotion)
