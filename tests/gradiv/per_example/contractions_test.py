"""Weights that are normalized before their use, without writing products."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv.per_example._engine import trace
from tests.gradiv.per_example import reference
from tests.gradiv.per_example.case import Draw


def normalized(w, axes):
  return w / jnp.sqrt(jnp.sum(w * w, axes, keepdims=True))


def standardized(w, axes):
  w = w - jnp.mean(w, axes, keepdims=True)
  return w / jnp.sqrt(jnp.mean(jnp.square(w), axes, keepdims=True) + 1e-3)


def power_iteration(w):
  """Divide a matrix by its largest singular value, as it is found."""
  u = jax.lax.stop_gradient(w @ (w.T @ jnp.ones(len(w))))
  v = jax.lax.stop_gradient(w.T @ u)
  return w / (u @ w @ v)


def dense(way):
  return lambda p, x: jnp.tanh(x @ way(p))


# name: (net, shape of the parameter, shape of an example)
CASES = {
  'columns': (dense(lambda w: normalized(w, 0)), (8, 6), (3, 8)),
  'rows': (dense(lambda w: normalized(w, 1)), (8, 6), (3, 8)),
  'whole': (dense(lambda w: normalized(w, (0, 1))), (8, 6), (3, 8)),
  'transposed': (dense(lambda w: normalized(w, 0).T), (6, 8), (3, 8)),
  'one_position': (dense(lambda w: normalized(w, 0)), (8, 6), (1, 8)),
  'standardized': (dense(lambda w: standardized(w, 0)), (8, 6), (3, 8)),
  'spectral': (dense(power_iteration), (8, 6), (3, 8)),
  'experts': (lambda p, x: jnp.tanh(jnp.einsum(
    'tei,eij->tej', x, normalized(p, 1))), (2, 8, 6), (3, 2, 8)),
  'heads': (lambda p, x: jnp.tanh(jnp.einsum(
    'ti,hdi->thd', x, normalized(p, 2))), (2, 3, 8), (3, 8))}


def with_gain(p, x):
  return jnp.tanh(x @ (p['g'][None] * normalized(p['w'], 0)))


class ContractionsTest(parameterized.TestCase):

  @parameterized.named_parameters(
    (name, name) for name in ('columns', 'whole', 'standardized', 'experts'))
  def test_equals_the_gradient_of_each_example(self, name):
    self.check(name)

  @parameterized.named_parameters((name, name) for name in (
    'rows', 'transposed', 'one_position', 'spectral', 'heads'))
  @pytest.mark.slow
  def test_the_rest_equals_it(self, name):
    self.check(name)

  def check(self, name):
    net, of_params, of_example = CASES[name]
    draw = Draw(name)
    self.check_loss(*draw.regression(net, draw(*of_params), *of_example))

  def check_loss(self, *problem):
    with reference.little_room():
      leaves = trace.Trace(problem[0], False, *problem[1:]).leaves
    self.assertEqual({leaf.kind for leaf in leaves}, {'contracted'})
    reference.check(*problem, gram_room=reference.little_room)
    return leaves

  def test_gains_and_directions(self):
    """The direction is spread with the array that it is contracted with."""
    draw = Draw('gain')
    gains = draw(6)
    gains[2] = 0
    gain, weight = self.check_loss(*draw.regression(
      with_gain, {'g': gains, 'w': draw(8, 6)}, 3, 8))
    self.assertIsNone(gain.contracted.whole)
    (part,) = weight.contracted.parts
    self.assertTrue(part.mirrors)

  @parameterized.parameters(
    # A norm of a part of a factor; two products; many positions.
    ((8, 2, 3), (3, 8), lambda p, x: jnp.einsum(
      'ti,ihd->thd', x, normalized(p, 1))),
    ((8, 6), (3, 8), lambda p, x: jnp.tanh(
      x @ normalized(p, 0)) @ normalized(p, 0).T),
    ((8, 6), (999, 8), dense(lambda w: normalized(w, 0))))
  def test_what_is_written_out(self, of_params, of_example, net):
    draw = Draw('mixture')
    problem = draw.regression(net, draw(*of_params), *of_example)
    with reference.little_room():
      (row,) = gradiv.explain(*problem).rows
    self.assertEqual((row.rule, row.method), ('mixture', 'written out'))

  def test_no_product_is_in_the_program(self):
    draw = Draw('large')
    n, a, b = 32, 128, 96
    loss_fn = lambda p, x: jnp.sum(jnp.square(with_gain(p, x)))
    problem = {'g': draw(b), 'w': draw(a, b)}, np.float32(
      draw.rng.normal(size=(n, 4, a)))
    compiled = jax.jit(gradiv.example_moments(loss_fn)).lower(
      *problem).compile()
    self.assertNotRegex(
      compiled.as_text(), fr'f32\[{n},(\d+,)?({a},{b}|{b},{a})')
    rows = gradiv.explain(loss_fn, *problem).rows
    self.assertEqual({row.rule for row in rows}, {'contracted'})

  @parameterized.named_parameters(
    ('divided', with_gain),
    ('multiplied', lambda p, x: jnp.tanh(x @ (p['w'] * jax.lax.rsqrt(
      jnp.sum(p['w']**2, 0, keepdims=True)) * p['g'][None]))))
  def test_weight_and_gain_share_one_contraction(self, net):
    draw = Draw('shared')
    n, k, a, b = 32, 5, 128, 96
    loss_fn = lambda p, x: jnp.sum(jnp.square(net(p, x)))
    problem = {'g': draw(b), 'w': draw(a, b)}, np.float32(
      draw.rng.normal(size=(n, k, a)))
    compiled = jax.jit(gradiv.example_moments(loss_fn)).lower(
      *problem).compile()
    # The forward pass, and x times the weight.
    products = re.findall(fr'= f32\[{n * k},{b}\]\S* dot\(',
                          compiled.as_text())
    self.assertLen(products, 2)

  @parameterized.parameters('standardized', 'whole')
  def test_workers_hold_parts_of_the_batch(self, name):
    """Types vary over the workers; so do those of what is contracted."""
    net, of_params, of_example = CASES[name]
    draw = Draw(name)
    loss_fn, params, batch = draw.regression(net, draw(*of_params), *of_example)
    batch = jax.tree.map(lambda x: x[:4], batch)

    def of_worker(params, batch, is_private):
      if is_private:
        params = gradiv.as_private(params, 'workers')
      with reference.little_room():
        _, grad, moments = gradiv.example_moments(
          loss_fn, axis_name='workers')(params, batch)
      return grad, moments

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('workers',))
    for is_private in (True, False):
      grad, moments = jax.jit(jax.shard_map(
        functools.partial(of_worker, is_private=is_private), mesh=mesh,
        in_specs=(P(), P('workers')), out_specs=P()))(params, batch)
      truth = reference.Truth(*reference.gradients(loss_fn, params, batch))
      truth.check_sum([grad], np.full(4, 1 / 4))
      truth.check_moments(moments)

  def test_convolutions_with_a_gain_take_patches(self):
    """XLA on CPU is slow at convolutions that each example has for itself."""
    draw = Draw('convolution')

    def net(p, x):
      kernel = p['g'][None, None] * normalized(p['w'], (0, 1))
      return jnp.tanh(jax.lax.conv_general_dilated(
        x[None], kernel, (1,), 'SAME',
        dimension_numbers=('NWC', 'WIO', 'NWC'), feature_group_count=2)[0])

    problem = draw.regression(net, {'g': draw(6), 'w': draw(3, 2, 6)}, 9, 4)
    rows = gradiv.explain(*problem).rows
    self.assertEqual({row.rule for row in rows}, {'mixture'})
    reference.check(*problem)
    text = jax.jit(gradiv.example_moments(problem[0])).lower(
      *problem[1:]).compile().as_text()
    groups = [int(x) for x in re.findall(
      r'(?:feature|batch)_group_count=(\d+)', text)]
    self.assertLessEqual(max(groups), 4)


if __name__ == '__main__':
  absltest.main()
