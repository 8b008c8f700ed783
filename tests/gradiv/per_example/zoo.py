"""Small versions of all kinds of losses that users bring: one `Case` each.

`zoo_test.py` compares the per-example statistics of each with those of
``jax.vmap(jax.grad(loss_fn), (None, 0))``.
"""

from tests.gradiv.per_example import (
  zoo_attention,
  zoo_control,
  zoo_convs,
  zoo_flax,
  zoo_functions,
  zoo_layers,
  zoo_scaled,
  zoo_tokens,
  zoo_weights,
  zoo_wide,
)

CASES = (
  *zoo_layers.CASES, *zoo_tokens.CASES,
  *zoo_convs.CASES, *zoo_attention.CASES,
  *zoo_weights.CASES, *zoo_scaled.CASES, *zoo_control.CASES,
  *zoo_functions.CASES, *zoo_wide.CASES,
  *zoo_flax.CASES)
NAMED = {case.name: case for case in CASES}
