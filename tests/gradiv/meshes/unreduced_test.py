"""Gradients that are not reduced yet, read as the gradients of workers."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import collectives as cost
from gradiv import meshes, weightings
from tests import helpers
from tests.gradiv.meshes import chains, ways

IS_OLD = jax.__version_info__[:2] < (0, 10)
MESH = ways.mesh_of(AxisType.Explicit)
X = chains.batches(8, 1)[0]
RULE = weightings.upgrad()


def place(tree, spec):
  return jax.device_put(tree, NamedSharding(MESH, spec))


def grads_of(params, x):
  """Return gradients that every device holds its own part of."""
  return jax.grad(chains.loss)(jax.sharding.reshard(
    params, NamedSharding(MESH, P(reduced={'data'}))), x)


def run(fn, params=None):
  """Call ``fn(grads, params)`` in a compiled step; return its collectives."""
  params = place(chains.params(), P()) if params is None else params
  x = place(X.reshape(-1, 6), P('data'))
  step = jax.jit(lambda p, x: fn(grads_of(p, x), p)).lower(params, x).compile()
  return step(params, x), cost.collectives(step.as_text())


def of_workers(fn):
  """Call ``fn(grads)`` under the axis 'w', with one batch each."""
  return jax.jit(jax.vmap(
    lambda x: fn(jax.grad(chains.loss)(chains.params(), x)), axis_name='w',
    out_axes=None))(X)


class UnreducedTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    if IS_OLD:
      self.skipTest('jax has no such type')

  def test_moments(self):
    found, sent = run(lambda g, _: meshes.moments(g, batch_size=4))
    helpers.assert_close(found, of_workers(
      lambda g: gradiv.worker_moments(g, 'w', batch_size=4)), 1e-5)
    # The mean, and scalars.
    self.assertLess(sum(size for _, size in sent), 160 + 5)

  def test_gram(self):
    found, _ = run(lambda g, _: meshes.gram(g))
    helpers.assert_close(
      found, of_workers(lambda g: gradiv.worker_gram(g, 'w')), of_largest=1e-6)

  def test_a_rule_in_place_of_the_sum(self):
    tx = gradiv.aggregate_by_weights(RULE, 'w')
    expected = of_workers(lambda g: tx.update(g, tx.init(g))[0])
    found, sent = run(lambda g, p: meshes.reduce(g, RULE, like=p))
    helpers.assert_close(found, expected, of_largest=1e-5)
    moved = lambda name: sum(size for n, size in sent if n == name)
    self.assertEqual(moved('all-to-all'), 160)
    # The gradient, and who is present.
    self.assertEqual(moved('all-gather'), 160 + 8)
    self.assertEqual(moved('all-reduce'), 64 + 1)
    for leaf in jax.tree.leaves(found):
      self.assertEqual(leaf.sharding.spec, P(*[None] * leaf.ndim))

  def test_slices_for_parameters_that_are_cut_up(self):
    params = place(chains.params(), P())
    params['second']['w'] = place(params['second']['w'], P('data'))
    like = jax.tree.map(lambda x: x.sharding, params)
    found, sent = run(lambda g, p: meshes.reduce(g, RULE, like=jax.tree.map(
      jax.sharding.reshard, p, like)))
    whole, _ = run(lambda g, p: meshes.reduce(g, RULE, like=p))
    helpers.assert_close(found, whole, of_largest=1e-6)
    self.assertEqual(found['second']['w'].sharding.spec, P('data', None))
    # All but that leaf.
    self.assertEqual(sum(n for name, n in sent if name == 'all-gather'),
                     6 * 16 + 16 + 8)

  def test_what_has_been_reduced_before_is_nan(self):
    """One device then holds all of it, and the others zero."""
    def fake(grads, params):
      again = jax.sharding.reshard(
        jax.sharding.reshard(grads, NamedSharding(MESH, P())),
        NamedSharding(MESH, P(unreduced={'data'})))
      return (meshes.moments(again).mean_sq_deviation, meshes.gram(again),
              meshes.reduce(again, RULE, like=params))

    for leaf in jax.tree.leaves(run(fake)[0]):
      self.assertTrue(np.all(np.isnan(leaf)))

  @pytest.mark.slow
  def test_a_chain(self):
    chain = lambda axis: chains.CHAINS['agreement'].make(axis, 8, None)
    tx = meshes.on_mesh(chain('data'), MESH, 'data')
    params = place(chains.params(), P())
    state = tx.init(params)
    (updates, state), _ = run(lambda g, p: tx.update(
      meshes.worker_rows(g), jax.tree.map(jnp.copy, state), p))
    named = chain('w')
    expected = of_workers(lambda g: named.update(g, named.init(g), g))
    helpers.assert_close(updates, expected[0], of_largest=1e-4)
    self.assertTrue(optax.tree.get(state, 'ready'))

  def test_other_gradients_are_refused(self):
    params = place(chains.params(), P())
    with self.assertRaisesRegex(ValueError, 'grads.*unreduced'):
      jax.jit(meshes.moments)(params)


class OldTest(absltest.TestCase):

  def test_an_error_names_the_version(self):
    with mock.patch.object(jax, '__version_info__', (0, 9, 2)):
      with self.assertRaisesRegex(ValueError, 'jax 0.10'):
        meshes.moments(jnp.zeros(3))


if __name__ == '__main__':
  absltest.main()
