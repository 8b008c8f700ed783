"""The reference for per-example statistics: ``jax.vmap(jax.grad)``."""

import contextlib
import copy
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gradiv import per_example
from gradiv.per_example._engine import costs, factors, trace as trace_lib

# Error of a sum of products relative to the sum of their absolute values: two
# roundings of float32 each, by half an eps.
ROUNDING = float(jnp.finfo(jnp.float32).eps)


@functools.cache
def quick_options():
  """Return options that make XLA:CPU compile in a fifth of the time."""
  options = {'xla_cpu_parallel_codegen_split_count': 1,
             'xla_cpu_use_fusion_emitters': False}
  try:
    jax.jit(jnp.sin, compiler_options=options).lower(1.).compile()
  except jax.errors.JaxRuntimeError:  # jax 0.12
    del options['xla_cpu_use_fusion_emitters']
  return options


def quick_jit(fn):
  """Compile a function that runs only once."""
  return jax.jit(fn, compiler_options=quick_options())


@contextlib.contextmanager
def little_room():
  """Make the engine choose, while it traces, as it would for large models.

  It takes the most expensive way to a norm (so that both are tested), cuts
  parameters that are small enough to be written out, and writes out only a few
  examples at a time.
  """
  most_expensive = lambda ways: max(ways, key=lambda way: way.cost)
  with (mock.patch.object(costs, 'best', most_expensive),
        mock.patch.object(costs, 'room', lambda platform=None: 64),
        mock.patch.object(costs, 'CORES', 1),
        mock.patch.object(costs, 'WHOLE', 0)):
    yield


def floating(tree, params):
  """List the leaves whose parameters are floating-point numbers."""
  assert jax.tree.structure(tree) == jax.tree.structure(params)
  return [x for x, p in zip(jax.tree.leaves(tree), jax.tree.leaves(params))
          if jnp.issubdtype(p.dtype, jnp.floating)]


def gradients(loss_fn, params, batch, has_aux=False):
  """Compute the losses and the gradients of all examples."""
  of_one = jax.value_and_grad(loss_fn, has_aux=has_aux, allow_int=True)
  losses, grads = jax.vmap(of_one, (None, 0))(params, batch)
  return losses, floating(grads, params)


def weights_of(n):
  """Return weights of both signs; of several, the first is zero."""
  each = np.arange(n)
  return np.float32(np.where((each == 0) & (n > 1), 0, np.cos(2 * each)))


class Truth:
  """Gradients of examples in float64, and comparisons with them.

  Errors may reach `tolerance` times a natural scale: for the gradient of a
  parameter, its largest element in any example, or a hundredth of the largest
  element of all parameters if that is more (the gradient of some parameters,
  such as the bias of the keys under a softmax, is only rounding); for a square
  the square; for an inner product ‖g_i‖‖g_j‖.
  """

  def __init__(self, losses, grads, tolerance=1e-5):
    self.losses = jax.tree.map(np.asarray, losses)
    self.tolerance = tolerance
    self._keep([np.asarray(g, np.float64) for g in grads],
               [g.dtype for g in grads])

  def _keep(self, grads, dtypes):
    self.grads, self.dtypes, self.n = grads, dtypes, len(grads[0])
    self.rows = np.concatenate([g.reshape(self.n, -1) for g in grads], 1)

  def of(self, examples=slice(None), leaves=None):
    """Restrict to some examples, and to some parameters by their position."""
    leaves = range(len(self.grads)) if leaves is None else leaves
    truth = copy.copy(self)
    truth.losses = jax.tree.map(lambda x: x[examples], self.losses)
    truth._keep([self.grads[k][examples] for k in leaves],
                [self.dtypes[k] for k in leaves])
    return truth

  def check_sum(self, actual, weights):
    """Compare with Σ w_i g_i, parameter by parameter."""
    weights = np.asarray(weights, np.float64)
    assert [g.dtype for g in actual] == self.dtypes
    least = np.abs(self.rows).max(initial=0) / 100
    for a, g in zip(actual, self.grads, strict=True):
      expected = np.tensordot(weights, g, 1)
      scale = np.abs(g).max(initial=least) * max(np.abs(weights).sum(), 1)
      np.testing.assert_allclose(
        np.asarray(a, np.float64), expected, 0, self.tolerance * scale)

  def check_squares(self, actual, products=0.):
    """Compare with ‖g_i‖², given how large the terms were that canceled."""
    expected = np.sum(self.rows**2, 1)
    gap = np.abs(np.asarray(actual, np.float64) - expected)
    allowed = self.tolerance * expected + ROUNDING * products + 1e-30
    assert np.shape(actual) == (self.n,)
    assert np.all(gap <= allowed), (actual, expected, gap / allowed)

  def check_gram(self, actual):
    """Compare with ⟨g_i, g_j⟩."""
    norms = np.linalg.norm(self.rows, axis=1)
    gap = np.abs(np.asarray(actual) - self.rows @ self.rows.T)
    allowed = self.tolerance * np.outer(norms, norms) + 1e-30
    assert actual.dtype == np.result_type(np.float32, *self.dtypes)
    assert actual.shape == (self.n, self.n)
    assert np.all(gap <= allowed), (gap / allowed).max() * self.tolerance

  def check_moments(self, moments):
    """Compare with the moments of the gradients."""
    rows = self.rows
    mean = rows.mean(0)
    expected = (len(rows), 1, np.sum(mean**2),
                np.mean(np.sum((rows - mean)**2, 1)))
    np.testing.assert_array_equal(np.asarray(moments[:2]), expected[:2])
    scale = np.mean(np.sum(rows**2, 1))
    np.testing.assert_allclose(
      np.asarray(moments[2:]), expected[2:], 0, self.tolerance * scale + 1e-30)

  def check_losses(self, actual):
    """Compare the losses and their auxiliary output."""
    jax.tree.map(self._close, actual, self.losses)

  def check_mean_loss(self, actual):
    """Compare the mean loss, and the auxiliary output of each example."""
    loss, *aux = actual if isinstance(self.losses, tuple) else (actual,)
    losses, *all_aux = (self.losses if isinstance(self.losses, tuple)
                        else (self.losses,))
    self._close(loss, losses.mean(dtype=np.float64))
    jax.tree.map(self._close, aux, all_aux)

  def _close(self, a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(
      a, b, 0, self.tolerance * max(np.abs(b).max(initial=0), 1e-3))


def products(loss_fn, params, batch, has_aux=False):
  """Compute Σ (Σ_k ‖u_k‖‖v_k‖)² of the products Σ_k u_k ⊗ v_k: [n].

  From inner products of the factors, ‖Σ_k u_k ⊗ v_k‖² is a sum of terms
  ⟨u_k, u_l⟩⟨v_k, v_l⟩. By Cauchy-Schwarz, this bounds the sum of their absolute
  values, which the rounding error of the sum is relative to.
  """
  trace = trace_lib.Trace(loss_fn, has_aux, params, batch)
  _, _, data = trace.run(batch, None)
  norms = lambda x: 1. if isinstance(x, factors.OneHot) else (
    jnp.linalg.norm(x, axis=-1))
  total = jnp.zeros(trace.num_examples)
  for like in (like for leaf in trace.leaves if leaf.kind == 'products'
               for like in leaf.like_terms):
    of_blocks = sum(jnp.sum(norms(u) * norms(v), -1)
                    for u, v in like.pairs(data.batched))
    total += jnp.sum(jnp.square(of_blocks), -1)
  return total


def check(loss_fn, params, batch, *, has_aux=False, tolerance=1e-5,
          gram_room=contextlib.nullcontext):
  """Compare all statistics of a loss with the gradients of its examples.

  One program computes both, so that only one is compiled. The engine is free
  to choose for the moments, has `little_room` for the squares and `gram_room`
  for the Gram matrix.
  """
  weights = weights_of(len(jax.tree.leaves(batch)[0]))

  @quick_jit
  def everything(params, batch, weights):
    of = lambda make: make(loss_fn, has_aux=has_aux)(params, batch)
    loss, grads, moments = of(per_example.example_moments)
    with little_room():
      losses, squares, combine = of(per_example.example_sq_norms)
      mixed = combine(weights)
      scale = products(loss_fn, params, batch, has_aux)
    with gram_room():
      own, gram, combine = of(per_example.example_gram)
      sums = [floating(tree, params)
              for tree in (grads, mixed, combine(weights))]
    return (loss, losses, own, sums, moments, squares, scale, gram,
            gradients(loss_fn, params, batch, has_aux))

  loss, losses, own, sums, moments, squares, scale, gram, expected = everything(
    params, batch, weights)
  truth = Truth(*expected, tolerance)
  truth.check_mean_loss(loss)
  truth.check_losses(losses)
  truth.check_losses(own)
  truth.check_sum(sums[0], np.full(truth.n, 1 / truth.n))
  truth.check_sum(sums[1], weights)
  truth.check_sum(sums[2], weights)
  truth.check_moments(moments)
  truth.check_squares(squares, scale)
  truth.check_gram(gram)
