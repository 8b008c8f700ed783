"""Moments, norms, Gram matrix and weighted sums over the examples of a batch.

The product that makes the gradient of a parameter out of activations and
errors is the last step of a backward pass, and the only one in which the
examples of a batch meet. All before it is computed for each example at no
extra cost; norms and inner products of the gradients of single examples are
read off its factors. Goodfellow, `Efficient Per-Example Gradient Computations
<https://arxiv.org/abs/1510.01799>`_, 2015, for dense layers; Roulet and
Agarwala, `Per-example gradients: a new frontier for understanding and
improving optimizers <https://arxiv.org/abs/2510.00236>`_, 2025.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import checks, compat, layout as layouts, trees
from gradiv.diversity.moments import Moments
from gradiv.per_example._engine import trace as trace_lib


def example_moments(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: layouts.Grouping | None = None,
  axis_name: workers.AxisName | None = None,
  microbatch_size: int | None = None,
) -> Callable[..., tuple[Any, Any, Any]]:
  """Make a function that computes loss, gradient and `Moments` of a batch.

  (params, batch, *, mask=None) -> (loss, grads, Moments): the means over the
  examples, and ‖ḡ‖² and (1/n) Σ ‖g_i − ḡ‖² of their gradients g_i, which are
  not written out. Of batch size 1: `estimate` gives ‖∇F‖² and tr Σ.

  The second is (1/n) Σ ‖g_i‖² − ‖ḡ‖², so it is known to some 1e-7 of ‖ḡ‖² in
  float32, to some 1e-3 where the gradients are bfloat16: gradients that agree
  more closely have a deviation of zero, or of rounding.

  >>> loss = lambda w, x: 0.5 * jnp.sum(jnp.square(w @ x))
  >>> loss, grads, m = example_moments(loss)(
  ...   jnp.ones((1, 2)), jnp.array([[1., 0.], [0., 2.]]))
  >>> float(loss), grads.tolist(), float(m.mean_sq_deviation)
  (1.25, [[0.5, 2.0]], 4.25)

  Args:
    loss_fn: (params, example) -> a scalar, of one example: the leaves of the
      batch without their first axis. Random keys may be among them.
    has_aux: Whether it returns (loss, auxiliary); the first result is then
      (loss, what is auxiliary, of each example: [n, ...]).
    groups: Names the group of a leaf by its path, such as `by_layer`: the
      third result is then a dict of Moments.
    axis_name: Of workers with batches of their own, of one size: everything
      is then of all their examples, at the price of one psum.
    microbatch_size: Examples taken at once, by a loop; by default all.

  Returns:
    The function. With ``mask`` [n], only the examples count where it is True,
    as in a batch that is padded. Leaves of integers get gradients of dtype
    float0, as from `jax.grad` with ``allow_int``.

  Raises:
    ValueError: On a bad argument; where the loss is not a scalar or talks to
      other examples; or where leaves of the batch differ in size.
  """
  if microbatch_size is not None:
    checks.count('microbatch_size', microbatch_size, 1)
  if axis_name is not None:
    workers.names_of(axis_name)

  def moments_fn(params, batch, *, mask=None):
    n = trace_lib.count_examples(batch)
    mask = _checked_mask(mask, n)
    size = microbatch_size or n
    if n % size:
      raise ValueError(f'microbatch_size={size}: must divide the {n} examples')
    if axis_name is not None:
      params = workers.as_private(params, axis_name)
    own = jnp.float32(n) if mask is None else jnp.sum(mask, dtype=jnp.float32)
    count = own
    if axis_name is not None:
      # A psum only where masks may differ.
      count = (own * workers.num_workers(axis_name) if mask is None
               else lax.psum(own, axis_name))
    share = 1 / jnp.maximum(count, 1).astype(jnp.result_type(float))
    cut = lambda x: x.reshape(-1, size, *x.shape[1:])
    chunks = jax.tree.map(cut, (batch, mask))
    trace = trace_lib.Trace(loss_fn, has_aux, params,
                          jax.tree.map(lambda x: x[0], chunks[0]),
                          only_sums=mask is None)
    total, shared, aux = _over_chunks(
      lambda chunk: _sums(trace, groups, share, *chunk), chunks)
    # What is common is there once, whatever the examples; of several workers,
    # each brings the part of its examples, for the sum to be typed as common.
    part = jnp.float32(1) if axis_name is None else own * share
    total['grads'] = [
      (g if c is None else g + _times(c.astype(g.dtype), part)).astype(
        leaf.dtype)
      for g, c, leaf in zip(total['grads'], shared, trace.leaves)]
    if axis_name is not None:
      total = lax.psum(total, axis_name)
    grads = total['grads']
    squares = _grouped(trace, [trees.sq_norm(g) for g in grads], groups)
    moments = {name: Moments(
      count, jnp.float32(1), square,
      # May come out below zero by rounding, where all gradients are equal.
      jnp.maximum(_times(total['squares'][name], share) - square, 0))
      for name, square in squares.items()}
    loss = _times(total['loss'], share).astype(trace.loss_dtype)
    return ((loss, trace.unflatten_aux(aux)) if has_aux else loss,
            trace.unflatten(grads), moments if groups else moments[''])

  return moments_fn


def example_sq_norms(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: layouts.Grouping | None = None,
) -> Callable[..., tuple[Any, Any, Callable]]:
  """Make a function that computes ‖g_i‖² of each example of a batch.

  (params, batch, *, mask=None) -> (losses [n], sq_norms [n], combine), with
  combine(weights [n]) = Σ w_i g_i, a tree like the parameters, for one product
  a layer and no further backward pass. An example of weight zero is left out,
  whatever its gradient. To clip each gradient at C, as for privacy:

  >>> def clip(norm_fn, params, batch, most):
  ...   losses, squares, combine = norm_fn(params, batch)
  ...   return combine(jnp.minimum(1, most / jnp.sqrt(squares)) / len(squares))
  >>> loss = lambda w, x: jnp.dot(w, x)
  >>> clip(example_sq_norms(loss), jnp.zeros(2),
  ...      jnp.array([[3., 4.], [0., 1.]]), 1.)
  Array([0.3, 0.9], dtype=float32)

  The arguments and errors are those of `example_moments`; with ``groups``,
  norms are a dict, and `combine` takes one as well. Where ``mask`` is False,
  losses, norms and weights are zero.
  """
  def norms_fn(params, batch, *, mask=None):
    trace, losses, aux, data = _run(loss_fn, has_aux, params, batch, mask)
    squares = [jnp.where(data.mask, leaf.sums(data)[1], 0)
               for leaf in trace.leaves]
    squares = _grouped(trace, squares, groups)
    return ((losses, aux) if has_aux else losses,
            squares if groups else squares[''], _combiner(trace, data, groups))

  return norms_fn


def example_gram(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: layouts.Grouping | None = None,
) -> Callable[..., tuple[Any, Any, Callable]]:
  """Make a function that computes G_ij = ⟨g_i, g_j⟩ over the examples.

  (params, batch, *, mask=None) -> (losses [n], gram [n, n], combine), with
  combine(weights [n]) = Σ w_i g_i as in `example_sq_norms`. Every rule of
  `gradiv.weightings` so acts on examples, in one backward pass:

  >>> from gradiv import weightings
  >>> loss = lambda w, x: jnp.dot(w, x)
  >>> losses, gram, combine = example_gram(loss)(
  ...   jnp.zeros(2), jnp.array([[1., 0.], [.9, .1], [-1., 0.]]))
  >>> combine(weightings.agreement(0.5)(gram))
  Array([0.95, 0.05], dtype=float32)

  The arguments and errors are those of `example_moments`; with ``groups``,
  there is a dict of matrices, and `combine` takes one of weights. Rows and
  columns of examples where ``mask`` is False are NaN: weightings leave them
  out.
  """
  def gram_fn(params, batch, *, mask=None):
    trace, losses, aux, data = _run(loss_fn, has_aux, params, batch, mask)
    grams = [leaf.gram(data).astype(jnp.float32) for leaf in trace.leaves]
    both = data.mask[:, None] & data.mask[None, :]
    grams = {name: jnp.where(both, gram, jnp.nan)
             for name, gram in _grouped(trace, grams, groups).items()}
    return ((losses, aux) if has_aux else losses,
            grams if groups else grams[''], _combiner(trace, data, groups))

  return gram_fn


def _run(loss_fn, has_aux, params, batch, mask):
  mask = _checked_mask(mask, trace_lib.count_examples(batch))
  trace = trace_lib.Trace(loss_fn, has_aux, params, batch)
  losses, aux, data = trace.run(batch, mask)
  losses = jnp.where(data.mask, losses, 0)
  return trace, losses, trace.unflatten_aux(aux), data


def _sums(trace, groups, share, batch, mask):
  """Add up over examples: what differs by example, what does not, the rest."""
  losses, aux, data = trace.run(batch, mask)
  totals, all_squares, shared = [], [], []
  for leaf in trace.leaves:
    # Wide, since chunks are added to it: bfloat16 stops at 256 of them.
    dtype = trees.wide_dtype(leaf.dtype)
    total, squares = leaf.sums(data, share.astype(dtype))
    totals.append(jnp.zeros(leaf.shape, dtype) if total is None
                  else total.astype(dtype))
    all_squares.append(jnp.sum(jnp.where(data.mask, squares, 0)))
    shared.append(leaf.shared(data))
  return {
    'grads': totals,
    'squares': _grouped(trace, all_squares, groups),
    'loss': jnp.sum(jnp.where(data.mask, trees.widen(losses), 0)),
  }, shared, aux


def _times(x, share):
  return x * share.astype(x.dtype)


def _over_chunks(sums, chunks):
  """Add up over chunks of the batch, and line up what is auxiliary."""
  first = jax.tree.map(lambda x: x[0], chunks)
  num_chunks = len(jax.tree.leaves(chunks)[0])
  if num_chunks == 1:
    return sums(first)

  def step(carry, chunk):
    total, shared, aux = sums(chunk)
    # In bfloat16, what is small beside the sum so far would be lost.
    add = lambda so_far, x: so_far + trees.widen(x)
    return (jax.tree.map(add, carry[0], total), shared), aux

  total, shared, _ = jax.eval_shape(sums, first)
  total = jax.eval_shape(
    lambda tree: trees.widen(tree), total)
  zeros = jax.tree.map(compat.zeros_like, (total, shared))
  (total, shared), aux = lax.scan(step, zeros, chunks)
  return total, shared, jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]), aux)


def _combiner(trace, data, groups):
  """Make (weights) -> Σ w_i g_i, a pytree that may leave `jax.jit`."""
  names = [groups(path) if groups else '' for path in trace.paths]

  def combine(data, weights):
    weights = _checked_weights(weights, groups and set(names),
                               trace.num_examples)
    data = trace.pack(data)
    return trace.unflatten([
      leaf.weighted(data, jnp.where(data.mask, weights[name], 0))
      for name, leaf in zip(names, trace.leaves)])

  return jax.tree_util.Partial(combine, trace.unpack(data))


def _grouped(trace, values, groups):
  """Add the values of the leaves up by group."""
  totals = {}
  for path, value in zip(trace.paths, values):
    name = groups(path) if groups else ''
    totals[name] = totals.get(name, 0) + value
  return totals or {'': jnp.float32(0)}


def _checked_mask(mask, n):
  if mask is None:
    return None
  mask = np.asarray(mask) if isinstance(mask, (list, tuple)) else mask
  if jnp.shape(mask) != (n,):
    raise ValueError(f'mask of shape {jnp.shape(mask)}: must be one for each '
                     f'of the {n} examples')
  if jnp.result_type(mask) != bool:
    raise ValueError(f'mask of dtype {jnp.result_type(mask)}: must be bool, '
                     'True where an example counts')
  return jnp.asarray(mask)


def _checked_weights(weights, names, n):
  """Return a dict of weights by group, '' where there are none."""
  if names is None:
    weights, names = {'': weights}, {''}
  if not isinstance(weights, dict) or set(weights) != names:
    found = sorted(weights) if isinstance(weights, dict) else type(weights)
    raise ValueError(
      f'weights are {found}: must be a dict with one entry for each of the '
      f'groups {sorted(names)}')
  for w in weights.values():
    shape = jnp.shape(w)
    if shape != (n,) or jnp.issubdtype(jnp.result_type(w), jnp.complexfloating):
      raise ValueError(f'weights of shape {shape}: must be one real number '
                       f'for each of the {n} examples')
  return weights
