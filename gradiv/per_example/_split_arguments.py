"""The arguments of a loss of a batch, taken apart as JAX-Privacy does."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import one_example


class Split(NamedTuple):
  """How the arguments of the loss become parameters, batch and the rest."""

  fun: Callable
  which: tuple[int, ...]
  batched: tuple[int, ...]
  prng_argnum: int | None
  keep_batch_dim: bool
  several: bool

  def __call__(self, args, kwargs, n):
    """Return the loss of one example, the parameters and the batch."""
    params = tuple(args[i] for i in self.which)
    batch = {i: args[i] for i in self.batched}
    if self.prng_argnum is not None:
      batch[self.prng_argnum] = jax.tree.map(
        lambda key: jax.random.split(key, n), args[self.prng_argnum])
    rest = {i: x for i, x in enumerate(args)
            if i not in batch and i not in self.which}

    def loss_fn(params, example):
      params = params if self.several else (params,)
      given = {**rest, **dict(zip(self.which, params)), **example}
      if self.keep_batch_dim:
        for i in self.batched:
          given[i] = jax.tree.map(lambda x: x[None], given[i])
      return self.fun(*(given[i] for i in range(len(args))), **kwargs)

    return loss_fn, params if self.several else params[0], batch


def check(which, batched):
  """Raise ValueError unless the numbers of arguments fit together."""
  if not batched:
    raise ValueError('batch_argnums=(): Batch Argnums must not be empty')
  if min(which + batched) < 0:
    raise ValueError(f'argnums={which} and batch_argnums={batched}: must be '
                     'at least 0')
  if both := sorted({*which} & {*batched}):
    raise ValueError(f'argnums={which} and batch_argnums={batched}: overlap '
                     f'in {both}, but what is differentiated is no batch')


def count(batches):
  """Count the examples, which all batches must have along axis 0."""
  try:
    return one_example.count_examples(batches)
  except ValueError as error:
    raise ValueError('the arguments of batch_argnums must have the same size '
                     f'along axis 0: {error}') from error


def as_padding(padding, n):
  """Return which of n examples are padding, [n] bool; None means none."""
  if padding is None:
    return jnp.zeros(n, bool)
  if jnp.shape(padding) != (n,) or jnp.result_type(padding) != jnp.bool_:
    raise ValueError(
      f'is_padding_example has shape {jnp.shape(padding)} and dtype '
      f'{jnp.result_type(padding)}: must be ({n},) of bool')
  return jnp.asarray(padding)
