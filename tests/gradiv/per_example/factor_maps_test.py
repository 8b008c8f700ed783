"""Weights that are products themselves: the matrix goes into a factor."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

import gradiv
from gradiv.per_example._engine import trace
from tests.gradiv.per_example import reference
from tests.gradiv.per_example.case import Draw


def einsum_of(formula):
  """Make a net of a weight that a formula computes from two parameters."""
  return lambda p, x: jnp.tanh(x @ jnp.einsum(formula, p['a'], p['b']).reshape(
    x.shape[-1], -1))


def merged(p, x):
  return jnp.tanh(x @ (lax.stop_gradient(p['w']) + 2 * p['a'] @ p['b']))


SHAPES = {'a': (8, 2), 'b': (2, 6)}
# name: (net, shapes of the parameters)
CASES = {
  'merged': (merged, SHAPES | {'w': (8, 6)}),
  'second_first': (einsum_of('ri,jr->ij'), {'a': (2, 8), 'b': (6, 2)}),
  'heads': (einsum_of('ir,rhd->ihd'), {'a': (8, 2), 'b': (2, 3, 4)}),
  'two_axes': (einsum_of('irs,srj->ij'), {'a': (8, 2, 3), 'b': (3, 2, 5)}),
  'two_axes_of_inputs': (
    einsum_of('hdr,rj->hdj'), {'a': (2, 4, 3), 'b': (3, 5)}),
  'three_matrices': (lambda p, x: jnp.tanh(x @ p['a'] @ (p['b'] @ p['c'] @ (
    p['d']))), {'a': (8, 5), 'b': (5, 3), 'c': (3, 4), 'd': (4, 6)}),
}
# Their products stay behind the matrix.
WRITTEN_OUT = {
  'convolved': (lambda p, x: jnp.tanh(lax.conv_general_dilated(
    x.reshape(1, -1, 2), jnp.einsum('tir,ro->tio', p['a'], p['b']), (1,),
    'SAME', dimension_numbers=('NHC', 'HIO', 'NHC'))),
    {'a': (3, 2, 2), 'b': (2, 6)}),
  'experts': (einsum_of('eir,erj->eij'), {'a': (2, 4, 2), 'b': (2, 2, 5)}),
  'its_own_square': (lambda p, x: jnp.tanh(x @ (p['a'] @ p['a'].T)),
                     {'a': (8, 2)}),
}


def problem(name):
  net, shapes = (CASES | WRITTEN_OUT)[name]
  draw = Draw(name)
  return draw.regression(
    net, {key: draw(*shape) for key, shape in shapes.items()}, 3, 8)


class FactorMapsTest(parameterized.TestCase):

  @parameterized.named_parameters((name, name) for name in CASES | WRITTEN_OUT)
  def test_equals_the_gradient_of_each_example(self, name):
    reference.check(*problem(name), gram_room=reference.little_room)

  @parameterized.named_parameters((name, name) for name in CASES | WRITTEN_OUT)
  def test_how_they_are_measured(self, name):
    with reference.little_room():
      leaves = trace.Trace(problem(name)[0], False, *problem(name)[1:]).leaves
    self.assertEqual({leaf.kind for leaf in leaves} - {'common'}, {
      'mixture' if name in WRITTEN_OUT else 'products'})

  def test_the_gradient_of_the_whole_weight_is_nowhere(self):
    """Neither of one example, nor of their sum."""
    draw, n, k, a, b, r = Draw('large'), 16, 5, 96, 128, 4
    loss_fn = lambda p, x: jnp.sum(jnp.square(merged(p, x)))
    params = {'w': draw(a, b), 'a': draw(a, r), 'b': draw(r, b)}
    x = np.float32(draw.rng.normal(size=(n, k, a)))
    text = jax.jit(gradiv.example_moments(loss_fn)).lower(
      params, x).compile().as_text()
    self.assertNotRegex(text, fr'f32\[(\d+,)+({a},{b}|{b},{a})\]')
    made = [line for line in text.splitlines() if ' dot(' in line
            and f'f32[{a},{b}]' in line.split(' dot(')[0]]
    self.assertLen(made, 1)  # A B itself


if __name__ == '__main__':
  absltest.main()
