"""The rule of each primitive, by itself; and how one is added."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.extend import core
from jax.interpreters import batching, mlir

from gradiv import per_example
from gradiv.per_example._engine import (
  cut,
  factors,
  program as programs,
  registry,
)
from gradiv.per_example._engine.outer_product import OuterProduct
from tests.gradiv.per_example import reference

# x [2, 3] and y [2, 4] depend on the example, c [3] does not.
RNG = np.random.default_rng(0)
X, Y, C = (jnp.float32(RNG.normal(size=s)) for s in ((2, 3), (2, 4), 3))
W = np.float32(RNG.normal(size=(4, 5)))
MASK = W[:3, :4] > 0


def product(x, y):
  return x.T @ y


def place(c):
  """Return an index that is common to the examples, but not known."""
  return jnp.argmax(c)


def zeros(*shape):
  return jnp.zeros(shape)


def spread(v, *axes):
  """Broadcast [3] or [4] to [3, 4], and [2, 3] or [2, 4] to [2, 3, 4]."""
  return lax.broadcast_in_dim(v, (2, 3, 4)[2 - v.ndim:], axes)


def summed(x, y):
  """Return w's gradient, with two uses of w."""
  return jax.grad(lambda w: jnp.sum((x @ w) * y) + jnp.sum(
    (x @ w) * jnp.sin(y)))(zeros(3, 4))


def looped(x, y):
  step = lambda carry, row: (carry + jnp.outer(*row), None)
  return lax.scan(step, zeros(3, 4), (x, y))[0]


def stacked(x, y):
  step = lambda _, row: (None, spread(row[0], 0) * spread(row[1], 1))
  return lax.scan(step, None, (x, y))[1]


def chosen(x, y):
  return lax.cond(x[0, 0] > 0, product, lambda x, y: -product(x, y), x, y)


# By primitive and rule; a rule may have several cases.
RULES = {
  ('dot_general', 'product'): [lambda x, y, c: product(x, y)],
  ('dot_general', 'linear'): [lambda x, y, c: product(x, y) @ W],
  ('conv_general_dilated', 'product'): [lambda x, y, c: lax.conv(
    x.reshape(1, 2, 1, 3), y.reshape(2, 2, 1, 2), (1, 1), 'VALID')],
  ('conv_general_dilated', 'linear'): [lambda x, y, c: lax.conv(
    product(x, y)[None, None], W[None, None, :2, :2], (1, 1), 'SAME')],
  ('mul', 'product'): [lambda x, y, c: spread(x[0], 0) * spread(y[0], 1)],
  ('mul', 'linear'): [
    lambda x, y, c: product(x, y) * W[:3, :4],
    lambda x, y, c: product(x, y) * 2,
    lambda x, y, c: product(x, y) * c[0]],
  ('mul', 'terms'): [lambda x, y, c: product(x, y) * x[0, 0]],
  ('div', 'linear'): [
    lambda x, y, c: product(x, y) / W[:3, :4],
    lambda x, y, c: product(x, y) / 2],
  ('reduce_sum', 'product'): [
    lambda x, y, c: jnp.sum(spread(x, 0, 1) * spread(y, 0, 2), 0)],
  ('reduce_sum', 'linear'): [
    lambda x, y, c: jnp.sum(product(x, y), 0),
    lambda x, y, c: jnp.sum(product(x, y)[:, None], 1)],
  ('reduce_sum', 'terms'): [lambda x, y, c: jnp.sum(product(x, y))],
  ('scatter-add', 'product'): [
    lambda x, y, c: zeros(5, 4).at[jnp.argsort(x[:, 0])].add(y)],
  ('scatter-add', 'linear'): [lambda x, y, c: zeros(5, 4).at[
    jnp.argsort(c)].add(product(x, y), unique_indices=True)],
  ('scatter-add', 'terms'): [
    lambda x, y, c: product(x, y).at[jnp.argsort(x[:, 0])].add(y)],
  ('dynamic_update_slice', 'product'): [
    lambda x, y, c: lax.dynamic_update_slice(
      zeros(3, 4), y[:1], (jnp.argmax(x[0]), 0))],
  ('dynamic_update_slice', 'linear'): [
    lambda x, y, c: lax.dynamic_update_slice(
      zeros(5, 4), product(x, y), (1, 0)),
    lambda x, y, c: lax.dynamic_update_slice(
      zeros(5, 4), product(x, y), (place(c), 0))],
  ('dynamic_update_slice', 'terms'): [
    lambda x, y, c: lax.dynamic_update_slice(
      zeros(5, 4), product(x, y), (9, 0))],
  ('convert_element_type', 'linear'): [
    lambda x, y, c: product(x, y).astype(jnp.bfloat16).astype(jnp.float32)],
  ('convert_element_type', 'terms'): [
    lambda x, y, c: jax.grad(lambda w: jnp.sum(jnp.real(
      (x @ w.astype(jnp.complex64)) * (y + 2j * jnp.sin(y)))))(zeros(3, 4))],
  ('real', 'terms'): [
    lambda x, y, c: product(x * (1 + 2j), y + 1j * jnp.sin(y)).T.real,
    lambda x, y, c: jnp.cumsum(product(x * 1j, y * 2j).real, 1)],
  ('imag', 'terms'): [
    lambda x, y, c: (3j * product(x * (1 + 2j), y + 1j * jnp.sin(y))).imag],
  ('complex', 'terms'): [
    lambda x, y, c: lax.complex(product(x, y), product(x, jnp.sin(y))).imag],
  ('conj', 'linear'): [
    lambda x, y, c: jnp.conj((1 + 1j) * product(x * (1 + 2j), y * 1j)).imag],
  ('reduce_precision', 'linear'): [
    lambda x, y, c: lax.reduce_precision(product(x, y), 8, 7)],
  ('reshape', 'linear'): [lambda x, y, c: product(x, y).reshape(2, 6)],
  ('squeeze', 'linear'): [
    lambda x, y, c: lax.squeeze(product(x[:, :1], y), (0,))],
  ('broadcast_in_dim', 'linear'): [
    lambda x, y, c: jnp.broadcast_to(product(x, y)[None], (2, 3, 4)),
    lambda x, y, c: lax.broadcast_in_dim(product(x, y), (3, 1, 4), (0, 2))],
  ('transpose', 'linear'): [lambda x, y, c: product(x, y).T],
  ('rev', 'linear'): [lambda x, y, c: jnp.flip(product(x, y), 1)],
  ('slice', 'terms'): [lambda x, y, c: product(x, y)[1:]],
  ('slice', 'linear'): [lambda x, y, c: product(x, y)[:, ::2]],
  ('split', 'terms'): [lambda x, y, c: jnp.split(product(x, y), 2, 1)[1]],
  ('dynamic_slice', 'linear'): [lambda x, y, c: lax.dynamic_slice(
    product(x, y), (place(c), 0), (1, 4))],
  ('gather', 'linear'): [lambda x, y, c: product(x, y)[jnp.argsort(c)[:2]]],
  ('pad', 'linear'): [
    lambda x, y, c: jnp.pad(product(x, y), ((0, 1), (2, 0))),
    lambda x, y, c: lax.pad(product(x, y), 0., ((0, 0, 1), (-1, 0, 0)))],
  ('concatenate', 'terms'): [
    lambda x, y, c: jnp.concatenate([product(x, y), x.T], 1)],
  ('add', 'terms'): [lambda x, y, c: product(x, y) + x.T @ jnp.sin(y)],
  ('add_any', 'terms'): [lambda x, y, c: summed(x, y)],
  ('sub', 'terms'): [lambda x, y, c: product(x, y) - x.T @ jnp.sin(y)],
  ('neg', 'linear'): [lambda x, y, c: -product(x, y)],
  ('cumsum', 'linear'): [lambda x, y, c: lax.cumsum(product(x, y), 1)],
  ('triangular_solve', 'linear'): [
    lambda x, y, c: jax.scipy.linalg.solve_triangular(
      W[:3, :3] + 3 * np.eye(3, dtype=np.float32), product(x, y))],
  ('select_n', 'linear'): [
    lambda x, y, c: jnp.where(MASK, product(x, y), 0)],
  ('scan', 'terms'): [
    lambda x, y, c: looped(x, y), lambda x, y, c: stacked(x, y)],
  ('cond', 'terms'): [lambda x, y, c: chosen(x, y)],
  ('optimization_barrier', 'terms'): [
    lambda x, y, c: lax.optimization_barrier(product(x, y))],
}
# Primitives that other versions of jax, or other programs, have in place of
# one above.
ALIKE = {
  'scatter_add': 'scatter-add', 'copy': 'reduce_precision',
  'copy_p': 'reduce_precision', 'sharding_constraint': 'reduce_precision',
  'pvary': 'reduce_precision', 'pcast': 'reduce_precision'}
KINDS = ('product', 'linear', 'terms')


def rules_of(name):
  primitive = registry.find(name)
  return {kind: getattr(primitive, kind) for kind in KINDS
          if getattr(primitive, kind)}


def recorded(name, kind, found):
  """Register a primitive anew so that results of one rule are recorded."""
  rule = getattr(registry.find(name), kind)

  def record(*args):
    result = rule(*args)
    found.append(result)
    return result

  return mock.patch.dict(registry._REGISTERED, {
    name: dataclasses.replace(registry.find(name), **{kind: record})})


class RulesTest(parameterized.TestCase):

  @parameterized.named_parameters(
    (f'{name}_{kind}_{i}', name, kind, fn)
    for (name, kind), fns in RULES.items() for i, fn in enumerate(fns))
  @pytest.mark.slow
  def test_terms_add_up_to_the_value(self, name, kind, fn):
    program = programs.Program(jax.make_jaxpr(fn)(X, Y, C))
    found = []
    with recorded(name, kind, found):
      terms = cut.Cutter(program, program.inputs[:2]).terms(program.outputs[0])
    self.assertTrue(any(x is not None and x != [] for x in found))
    # The value is not only returned as it is.
    self.assertTrue(any(term.product for term in terms))
    read = lambda atoms: dict(zip(atoms, program.run((X, Y, C), atoms)))
    total = 0
    for term in terms:
      common = read([x for op in term.ops for x in op.common])
      alone = term.add_up(
        [x[None] for x in read(term.operands).values()], common)
      if term.product and all(op.is_isometric for op in term.ops):
        u, v = term.factors([x[None] for x in read(term.operands).values()])
        np.testing.assert_allclose(
          jnp.sum(jnp.square(factors.product(u, v))),
          jnp.sum(jnp.square(alone)), 1e-2)
      total += alone
    np.testing.assert_allclose(total, fn(X, Y, C), 1e-5, 1e-6)

  def test_each_registered_rule_is_tested(self):
    of = {(name, kind) for name in registry.registered() if name not in ALIKE
          for kind in rules_of(name)}
    self.assertEqual(of, set(RULES))
    for name, other in ALIKE.items():
      self.assertEqual(rules_of(name), rules_of(other), name)

  def test_a_primitive_is_registered_once(self):
    with self.assertRaisesRegex(ValueError, 'dot_general'):
      registry.register('dot_general')


# A kernel of our own that multiplies activations and errors: x [t, a],
# d [t, b] -> [a, b].
kernel_p = core.Primitive('weight_gradient')
kernel_p.def_impl(lambda x, d: x.T @ d)
kernel_p.def_abstract_eval(lambda x, d: jax.core.ShapedArray(
  (x.shape[1], d.shape[1]), x.dtype))
mlir.register_lowering(kernel_p, mlir.lower_fun(
  lambda x, d: x.T @ d, multiple_results=False))


def _batched(args, axes):
  rows = [x if axis == 0 else jnp.broadcast_to(x[None], (5, *x.shape))
          for x, axis in zip(args, axes)]
  return lax.map(lambda row: kernel_p.bind(*row), tuple(rows)), 0


batching.primitive_batchers[kernel_p] = _batched


@jax.custom_vjp
def dense(x, w):
  return x @ w


dense.defvjp(lambda x, w: (x @ w, (x, w)),
             lambda saved, d: (d @ saved[1].T, kernel_p.bind(saved[0], d)))


def kernel_product(program, equation):
  """See Σ_k x[k, a] d[k, b]."""
  del program
  (x, d), ((k, a), (_, b)) = equation.ins, (
    v.aval.shape for v in equation.ins)
  return OuterProduct((x, d), lambda x, d: (x[None], d[None]),
                      (('a', a), ('b', b)), (1, k, a, b), scaled=1)


class AddingTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.normal(size=shape))
    self.loss = lambda w, x: jnp.sum(jnp.sin(dense(jnp.tanh(dense(
      x, w['in'])), w['out'])))
    self.params = {'in': draw(4, 6), 'out': draw(6, 3)}
    self.batch = draw(5, 2, 4)

  def rules(self):
    with reference.little_room():
      return [row.rule for row in per_example.explain(
        self.loss, self.params, self.batch).rows]

  def test_one_call_is_enough(self):
    """Norms, Gram matrix, sums and `explain` all know it then."""
    self.assertEqual(self.rules(), ['fallback'] * 2)
    with mock.patch.dict(registry._REGISTERED):
      registry.register('weight_gradient', product=kernel_product)
      self.assertEqual(self.rules(), ['weight_gradient'] * 2)
      reference.check(self.loss, self.params, self.batch,
                      gram_room=reference.little_room)

  def test_unknown_primitives_fall_back(self):
    reference.check(self.loss, self.params, self.batch)


if __name__ == '__main__':
  absltest.main()
