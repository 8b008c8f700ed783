"""Adasum: add gradients, counting what they have in common once."""

import jax.numpy as jnp

from gradiv.weightings import geometry, weighting

# A sum has canceled if its square is below this fraction of the square that
# its terms could reach: in float32, the rest is rounding.
_CANCELED = 1e-6


def adasum() -> weighting.Weighting:
  """Add gradients two by two, halving what they have in common.

  Use it to scale to more workers without retuning the learning rate: the
  result is the sum of orthogonal gradients, and the mean of equal ones.

  a ⊕ b = (1 − a·b/(2a·a)) a + (1 − a·b/(2b·b)) b, with the coefficient 1 for a
  zero vector. The gradients that are present are combined in their order over
  a binary tree: (0, 1), (2, 3), …, then the results of these in the same way;
  an odd one out moves up unchanged.

  >>> adasum()(jnp.eye(2)).tolist()  # Orthogonal: their sum.
  [1.0, 1.0]
  >>> adasum()(jnp.ones((2, 2))).tolist()  # Equal: their mean.
  [0.5, 0.5]

  Horovod combines each tensor separately and requires n to be a power of two.
  Here n is arbitrary, and the Gram matrix decides what is one vector; pass
  ``Layout(groups=gradiv.by_layer)`` to combine layers separately.

  Maleki et al., `Scaling Distributed Training with Adaptive Summation
  <https://arxiv.org/abs/2006.02924>`_, 2020.
  """

  def weigh(gram, present):
    n = len(gram)
    gram = geometry.normalized(gram)
    rows = jnp.eye(n, dtype=gram.dtype)[jnp.argsort(~present)]
    rows = jnp.where((jnp.arange(n) < present.sum())[:, None], rows, 0)
    while len(rows) > 1:
      rows = jnp.pad(rows, ((0, len(rows) % 2), (0, 0)))
      rows = _add_pairs(gram, rows[::2], rows[1::2])
    return rows[0]

  return weighting.stateless(weigh)


def _add_pairs(gram, a, b):
  """Compute a_i ⊕ b_i for rows of coefficients, [k, n]."""
  dot = lambda x, y: (geometry.dot(x, gram) * y).sum(1, keepdims=True)
  norms, across = jnp.sqrt(jnp.diagonal(gram))[None, :], dot(a, b)

  def shortened(x):
    square = dot(x, x)
    reach = jnp.square((jnp.abs(x) * norms).sum(1, keepdims=True))
    zero = square <= _CANCELED * reach
    return jnp.where(zero, x, x - across / jnp.where(zero, 1, 2 * square) * x)

  return shortened(a) + shortened(b)
