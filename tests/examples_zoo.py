"""All kinds of losses that users bring, small: one `Case` each.

`examples_zoo_test.py` holds per-example statistics of each to those of
``jax.vmap(jax.grad(loss_fn), (None, 0))``.
"""

from tests import (
  examples_zoo_attention, examples_zoo_control, examples_zoo_convs,
  examples_zoo_flax, examples_zoo_functions, examples_zoo_layers,
  examples_zoo_tokens, examples_zoo_weights, examples_zoo_wide)

CASES = (
  *examples_zoo_layers.CASES, *examples_zoo_tokens.CASES,
  *examples_zoo_convs.CASES, *examples_zoo_attention.CASES,
  *examples_zoo_weights.CASES, *examples_zoo_control.CASES,
  *examples_zoo_functions.CASES, *examples_zoo_wide.CASES,
  *examples_zoo_flax.CASES)
NAMED = {case.name: case for case in CASES}
