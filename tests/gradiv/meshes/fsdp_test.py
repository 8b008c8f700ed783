"""The tap on gathered parameters, against gradients that are never reduced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

import gradiv
from experiments.cost import collectives as cost
from gradiv import weightings
from gradiv.meshes import fsdp
from tests import helpers
from tests.gradiv.meshes import ways

N, LAYERS, WIDTH = 8, 6, 64
MESH = ways.mesh_of(AxisType.Auto)
KEYS = jax.random.split(jax.random.key(0), LAYERS)
PARAMS = {'w': jax.vmap(lambda k: jax.random.normal(
  k, (WIDTH, WIDTH)) / WIDTH**.5)(KEYS), 'b': jnp.zeros((LAYERS, WIDTH))}
X = jax.random.normal(jax.random.key(1), (N * 4, WIDTH))
RULE = weightings.geometric_median()


def layer(params, x):
  return x + jnp.tanh(x @ params['w'] + params['b'][None])


def loss(params, x):
  last, _ = lax.scan(lambda h, p: (layer(p, h), None), x, params)
  return jnp.mean((last - 3 * jnp.sin(37 * x))**2)


def gathered(gather, shape, finish, check_vma=True):
  """Make a rematerialized FSDP step whose parameters a function gathers."""
  def step(params, x):
    probes = fsdp.probes(params, 'data', (LAYERS, *shape))

    @jax.checkpoint
    def block(h, both):
      return layer(jax.tree.map(
        lambda p, probe: gather(p, probe, 'data', 0), *both), h), None

    def own_loss(params, probes):
      last, _ = lax.scan(block, x, (params, probes))
      return jnp.mean((last - 3 * jnp.sin(37 * x))**2)

    return finish(*jax.grad(own_loss, (0, 1))(params, probes))

  return jax.jit(jax.shard_map(
    step, mesh=MESH, in_specs=(P(None, 'data'), P('data')),
    out_specs=(P(None, 'data'), P()), check_vma=check_vma))


def unreduced():
  """Return the moments, the Gram matrix and the mean of whole gradients."""
  def worker(x):
    grads = jax.grad(loss)(PARAMS, x)
    return (gradiv.worker_moments(grads, 'w', batch_size=4),
            gradiv.worker_gram(grads, 'w'),
            jax.tree.map(lambda g: lax.pmean(g, 'w'), grads))

  return jax.jit(jax.vmap(worker, axis_name='w', out_axes=None))(
    X.reshape(N, 4, WIDTH))


class FsdpTest(parameterized.TestCase):

  def test_moments_for_one_psum_of_two_scalars(self):
    self.check_moments(True)

  @pytest.mark.slow
  def test_so_they_are_where_jax_does_not_track_what_varies(self):
    self.check_moments(False)

  def check_moments(self, check_vma):
    plain = gathered(
      lambda p, probe, axis, dim: lax.all_gather(p, axis, tiled=True), (),
      lambda g, _: (jax.tree.map(lambda x: x / N, g), ()), check_vma)
    tapped = gathered(fsdp.gather, (), lambda g, squares: (
      g, fsdp.moments_of(g, squares, 'data', batch_size=4)), check_vma)
    programs = [f.lower(PARAMS, X).compile() for f in (plain, tapped)]
    found = [sorted(cost.collectives(p.as_text())) for p in programs]
    self.assertEqual(found[1], sorted(
      [*found[0], cost.Collective('all-reduce', 2)]))
    plain_bytes, bytes_of_tap = (
      p.memory_analysis().temp_size_in_bytes for p in programs)
    self.assertLessEqual(bytes_of_tap, 1.02 * plain_bytes)
    grads, moments = programs[1](PARAMS, X)
    helpers.assert_same(grads, programs[0](PARAMS, X)[0])
    helpers.assert_close(moments, unreduced()[0], 1e-5)

  @pytest.mark.slow
  def test_norms_that_nobody_asks_for_cost_nothing(self):
    def step_of(gather):
      def step(params, x):
        probes = fsdp.probes(params, 'data', (LAYERS,))

        @jax.checkpoint
        def block(h, both):
          return layer(jax.tree.map(
            lambda p, probe: gather(p, probe, 'data', 0), *both), h), None

        def own_loss(params):
          last, _ = lax.scan(block, x, (params, probes))
          return jnp.mean((last - 3 * jnp.sin(37 * x))**2)

        return jax.grad(own_loss)(params)

      return jax.jit(jax.shard_map(
        step, mesh=MESH, in_specs=(P(None, 'data'), P('data')),
        out_specs=P(None, 'data'))).lower(PARAMS, X).compile()

    plain = step_of(lambda p, probe, axis, dim: lax.all_gather(
      p, axis, tiled=True) / N)  # the mean
    tapped = step_of(fsdp.gather)
    sums = lambda program: program.as_text().count(' reduce(')
    self.assertEqual(sums(tapped), sums(plain))
    self.assertLessEqual(tapped.cost_analysis()['flops'],
                         plain.cost_analysis()['flops'])

  def test_the_gram_matrix(self):
    step = gathered(fsdp.gather_gram, (N, N), lambda g, parts: (
      g, lax.psum(sum(x.sum(0) for x in jax.tree.leaves(parts)), 'data')))
    grads, gram = step(PARAMS, X)
    _, expected, mean = unreduced()
    helpers.assert_close(gram, expected, of_largest=1e-6)
    helpers.assert_close(grads, mean, of_largest=1e-5)

  @pytest.mark.slow
  def test_a_rule_by_leaf(self):
    step = gathered(fsdp.gather_by(RULE), (N,), lambda g, weights: (
      g, jax.tree.map(lambda x: lax.pmean(x, 'data'), weights)))
    grads, weights = step(PARAMS, X)
    tx = gradiv.aggregate_by_weights(RULE, 'w', layout=gradiv.Layout(
      groups=lambda path: jax.tree_util.keystr(path)))

    def worker(x):
      own = jax.grad(loss)(PARAMS, x)
      by_leaf = {k: [g[i] for i in range(LAYERS)] for k, g in own.items()}
      return tx.update(by_leaf, tx.init(by_leaf))[0]

    expected = jax.jit(jax.vmap(worker, axis_name='w', out_axes=None))(
      X.reshape(N, 4, WIDTH))
    helpers.assert_close(grads, {
      k: jnp.stack(v) for k, v in expected.items()}, of_largest=1e-5)
    # Each layer decides by itself.
    self.assertGreater(np.ptp(np.asarray(weights['w']), axis=0).max(), 1e-3)


if __name__ == '__main__':
  absltest.main()
