"""The Gram matrix of several losses, against their gradients one by one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from tests import helpers

RNG = np.random.default_rng(3)
T, B = 4, 6
PARAMS = {'in': {'w': np.float32(RNG.normal(size=(5, 8)))},
          'out': np.float32(RNG.normal(size=(8, T)))}
X = np.float32(RNG.normal(size=(B, 5)))
Y = np.float32(RNG.normal(size=(B, T)))


def losses_fn(params, x, y):
  hidden = jnp.tanh(x @ params['in']['w'])
  # Batch statistics: the loss need not be one of examples.
  hidden = hidden - hidden.mean(0, keepdims=True)
  return jnp.mean((hidden @ params['out'] - y)**2, 0)


def rows_of(fn, *args):
  jacobian = jax.jit(jax.jacrev(fn))(*args)
  return jax.tree.map(np.float64, jacobian)


class LossGramTest(parameterized.TestCase):

  def test_definition(self):
    rows = rows_of(losses_fn, PARAMS, X, Y)
    flat = np.hstack([x.reshape(T, -1) for x in jax.tree.leaves(rows)])

    @jax.jit
    def run(*args):
      losses, gram, combine = gradiv.loss_gram(losses_fn)(*args)
      weights = weightings.upgrad()(gram)
      return losses, gram, weights, combine(weights)

    losses, gram, weights, total = run(PARAMS, X, Y)
    np.testing.assert_allclose(losses, losses_fn(PARAMS, X, Y), 1e-6)
    np.testing.assert_allclose(gram, flat @ flat.T, 1e-5, 1e-5)
    helpers.assert_close(total, jax.tree.map(
      lambda x: np.tensordot(np.float64(weights), x, 1), rows), 1e-4, 1e-5)

  def test_a_tree_of_losses_aux_and_groups(self):
    def as_tree(params, x, y):
      losses = losses_fn(params, x, y)
      return {'a': losses[0], 'b': losses[1:].sum()}, {'x': x}

    fn = gradiv.loss_gram(as_tree, has_aux=True, groups=gradiv.by_layer)
    (losses, aux), grams, _ = jax.jit(fn)(PARAMS, X, Y)
    rows = rows_of(lambda p: jnp.stack(
      jax.tree.leaves(as_tree(p, X, Y)[0])), PARAMS)
    self.assertEqual(losses.shape, (2,))
    helpers.assert_same(aux['x'], X)
    for gram, part in zip(grams, (rows['in']['w'], rows['out'])):
      flat = part.reshape(2, -1)
      np.testing.assert_allclose(gram, flat @ flat.T, 1e-5, 1e-5)

  def test_the_forward_pass_runs_once(self):
    program = jax.jit(gradiv.loss_gram(losses_fn)).lower(PARAMS, X, Y).compile()
    passes = re.findall(r'= f32\[(.*?)\]\S* tanh\(', program.as_text())
    self.assertEqual(passes, [f'{B},8'])

  def test_one_loss(self):
    gram = jax.jit(gradiv.loss_gram(lambda p: p['out'].sum()))(PARAMS)[1]
    np.testing.assert_allclose(gram, [[8. * T]], 1e-6)

  @parameterized.parameters(
    lambda p: p['out'], lambda p: {}, lambda p: {'a': p['out']})
  def test_losses_that_are_none(self, fn):
    with self.assertRaisesRegex(ValueError, 'losses_fn'):
      gradiv.loss_gram(fn)(PARAMS)


if __name__ == '__main__':
  absltest.main()
