"""A chain on a mesh, under plain jit."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import collectives as cost
from gradiv import meshes
from tests import helpers
from tests.gradiv.meshes import chains, ways

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def collectives(compiled):
  """Add up what each kind of collective moves."""
  total = {}
  for name, size in cost.collectives(compiled.as_text()):
    total[name] = total.get(name, 0) + size
  return total


class OnMeshTest(parameterized.TestCase):

  @parameterized.parameters(AUTO, EXPLICIT)
  @pytest.mark.slow
  def test_several_workers_on_a_device(self, types):
    chain = chains.CHAINS['delay']
    helpers.assert_close(
      ways.by_on_mesh(chain, types, per_device=2, steps=4),
      ways.by_map_workers(chain, 'vmap', 16, steps=4), of_largest=2e-6)

  def test_private_state_has_rows(self):
    mesh = ways.mesh_of(AUTO)
    params = chains.params()
    tx = meshes.on_mesh(
      chains.CHAINS['feedback'].make('data', 8, None), mesh, 'data')
    for state in (tx.init(params), jax.jit(tx.init)(params)):
      residual = optax.tree.get(state, 'error')
      trace = optax.tree.get(state, 'trace')
      self.assertEqual(residual['first']['w'].shape, (8, 6, 16))
      self.assertEqual(residual['first']['w'].sharding.spec[0], 'data')
      self.assertEqual(trace['first']['w'].shape, (6, 16))

  @parameterized.parameters(AUTO, EXPLICIT)
  def test_the_state_is_laid_out_as_the_parameters(self, types):
    mesh = ways.mesh_of(types, (4, 2), ('data', 'model'))
    chain = chains.CHAINS['delay']
    tx = meshes.on_mesh(
      chain.make('data', 4, None), mesh, 'data', chains.SPECS)
    state = tx.init(jax.device_put(chains.params(), jax.tree.map(
      lambda s: NamedSharding(mesh, s), chains.SPECS)))
    self.assertEqual(
      optax.tree.get(state, 'trace')['first']['w'].sharding.spec,
      P(None, 'model'))
    # Late gradients of each worker.
    late = [x.sharding.spec for x in jax.tree.leaves(state)
            if x.shape == (4, 3, 6, 16)]
    self.assertEqual(late, [P('data', None, None, 'model')])

  @parameterized.parameters((AUTO, False), (EXPLICIT, True))
  def test_agreement_costs_one_all_reduce(self, types, in_context):
    self.check_cost(types, in_context)

  @parameterized.parameters((AUTO, True), (EXPLICIT, False))
  @pytest.mark.slow
  def test_so_it_does_with_and_without_a_context(self, types, in_context):
    self.check_cost(types, in_context)

  def check_cost(self, types, in_context):
    mesh = ways.mesh_of(types)
    params = {'w': jnp.zeros((512, 300))}
    tx = meshes.on_mesh(optax.chain(
      gradiv.aggregate_by_agreement(0.97, 'data'), optax.adam(0.1)), mesh,
      'data')
    value_and_grad = meshes.per_worker_value_and_grad(
      lambda p, x: jnp.mean((x @ p['w'])**2), mesh, 'data')

    def step(params, state, x):
      _, grads = value_and_grad(params, x)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
      params = place(params, P())
      found = collectives(jax.jit(step).lower(
        params, tx.init(params), place(jnp.zeros((16, 512)), P('data'))
      ).compile())
    size = 512 * 300
    self.assertEqual(set(found), {'all-to-all', 'all-gather', 'all-reduce'})
    for name in ('all-to-all', 'all-gather'):
      self.assertBetween(found[name], size, 1.01 * size)
    self.assertEqual(found['all-reduce'], 8 * 8 + 8 + 1)

  def test_aux_and_arguments_that_are_common(self):
    mesh = ways.mesh_of(AUTO)
    fn = meshes.per_worker_value_and_grad(
      lambda w, x, scale: (jnp.mean(w * x) * scale, x.sum()), mesh, 'data',
      has_aux=True)
    (losses, sums), grads = jax.jit(fn)(
      jnp.float32(2), jnp.arange(16.), jnp.float32(3))
    means = np.arange(16.).reshape(8, 2).mean(1)
    np.testing.assert_allclose(losses, 6 * means)
    np.testing.assert_allclose(grads, 3 * means)
    np.testing.assert_allclose(sums, 2 * means)

  @pytest.mark.slow
  def test_extra_arguments(self):
    mesh = ways.mesh_of(AUTO)
    chain = lambda axis: optax.chain(
      gradiv.track_moments(axis), gradiv.aggregate_by_mean(axis))
    grads = jnp.arange(8.)[:, None]
    tx = meshes.on_mesh(chain('data'), mesh, 'data',
                        extra_args={'batch_size': 4})
    sizes = np.arange(1., 9.)
    _, state = jax.jit(lambda s, b: tx.update(grads, s, batch_size=b))(
      tx.init(jnp.zeros(1)), sizes)
    named = chain('w')
    _, expected = jax.vmap(
      lambda g: named.update(g, named.init(g), batch_size=sizes),
      axis_name='w', out_axes=None)(grads)
    helpers.assert_close(state, expected)
    with self.assertRaisesRegex(ValueError, 'batch_size'):
      meshes.on_mesh(chain('data'), mesh, 'data').init(jnp.zeros(1))

  @pytest.mark.slow
  def test_an_optimizer_of_nnx(self):
    mesh = ways.mesh_of(AUTO)
    chain = lambda axis: optax.chain(
      gradiv.track_moments(axis, batch_size=4),
      gradiv.aggregate_by_agreement(1.2, axis), optax.adam(0.01))
    x = np.random.default_rng(0).normal(size=(3, 8, 4, 5)).astype('f')

    def loss(model, x):
      return jnp.mean((model(x) - x[:, :2])**2)

    def start(tx):
      model = nnx.Linear(5, 2, rngs=nnx.Rngs(0))
      return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    model, optimizer = start(meshes.on_mesh(chain('data'), mesh, 'data'))
    graph = nnx.graphdef(model)
    value_and_grad = meshes.per_worker_value_and_grad(
      lambda p, x: loss(nnx.merge(graph, p), x), mesh, 'data')

    @nnx.jit(donate_argnums=(0, 1))
    def step(model, optimizer, x):
      _, grads = value_and_grad(nnx.state(model, nnx.Param), x)
      optimizer.update(model, grads)

    for rows in x:
      step(model, optimizer, jax.device_put(
        rows.reshape(-1, 5), NamedSharding(mesh, P('data'))))
    expected, reference = start(chain('workers'))
    worker = nnx.jit(nnx.vmap(
      lambda model, optimizer, x: optimizer.update(
        model, nnx.grad(loss)(model, x)),
      in_axes=(None, None, 0), out_axes=None, axis_name='workers'))
    for rows in x:
      worker(expected, reference, rows)
    helpers.assert_close(nnx.state(model), nnx.state(expected),
                         of_largest=2e-6)


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
    ({'axis': 'rows'}, 'axis'), ({'axis': ('each', 'data')}, 'axis'),
    ({'axis': ('data', 'each')}, 'num_workers=None'),
    ({'num_workers': 16}, 'num_workers=16'),
    ({'axis': ('data', 'each'), 'num_workers': 12}, 'num_workers=12'),
    ({'mesh': None}, 'mesh'))
  def test_arguments(self, options, name):
    options = {'mesh': ways.mesh_of(AUTO), 'axis': 'data'} | options
    mean = gradiv.aggregate_by_mean('data')
    with self.assertRaisesRegex(ValueError, name):
      meshes.on_mesh(mean, **options)
    with self.assertRaisesRegex(ValueError, name):
      meshes.per_worker_value_and_grad(chains.loss, **options)

  @parameterized.parameters(
    (P('data'), 'specs'), (P('model'), 'specs'), ({'other': P()}, 'specs'))
  def test_specs(self, specs, name):
    tx = meshes.on_mesh(gradiv.aggregate_by_mean('data'), ways.mesh_of(AUTO),
                        'data', specs)
    with self.assertRaisesRegex(ValueError, name):
      tx.init(chains.params())

  def test_a_chain_over_an_axis_that_the_mesh_does_not_have(self):
    tx = meshes.on_mesh(
      gradiv.aggregate_by_mean('workers'), ways.mesh_of(AUTO), 'data')
    with self.assertRaisesRegex(
        ValueError, r"axis_name='workers'.*\('data',\)"):
      tx.init(chains.params())

  def test_gradients_without_rows(self):
    tx = meshes.on_mesh(
      gradiv.aggregate_by_mean('data'), ways.mesh_of(AUTO), 'data')
    params = chains.params()
    with self.assertRaisesRegex(ValueError, 'grads.*leading axis of 8'):
      tx.update(params, tx.init(params), params)
    rows = gradiv.replicate(params, 8)
    state = tx.init(params)
    with self.assertRaisesRegex(ValueError, 'state'):
      tx.update(rows, gradiv.replicate(state, 3), params)

  def test_updates_that_differ_between_workers(self):
    tx = meshes.on_mesh(optax.sgd(1.), ways.mesh_of(AUTO), 'data')
    params = chains.params()
    with self.assertRaisesRegex(ValueError, 'updates.*differs between work'):
      tx.update(gradiv.replicate(params, 8), tx.init(params), params)

  @parameterized.parameters(
    lambda: optax.chain(
      gradiv.track_moments('data', batch_size=4),
      gradiv.aggregate_by_mean('data', layout=gradiv.Layout(
        sharded_over='model'))),
    lambda: optax.chain(
      gradiv.aggregate_by_mean('data', layout=gradiv.Layout(
        sharded_over='model')), optax.clip_by_global_norm(1.)))
  def test_statistics_of_one_shard(self, make):
    """They would be those of the first shard, and no one would know."""
    mesh = ways.mesh_of(AUTO, (4, 2), ('data', 'model'))
    specs = {'w': P('model'), 'b': P()}
    tx = meshes.on_mesh(make(), mesh, 'data', specs)
    params = {'w': jnp.zeros(4), 'b': jnp.zeros(3)}
    with self.assertRaisesRegex(ValueError, 'between shards'):
      tx.update(gradiv.replicate(params, 4), tx.init(params), params)

  def test_a_batch_that_does_not_divide(self):
    fn = meshes.per_worker_value_and_grad(
      chains.loss, ways.mesh_of(AUTO), 'data')
    with self.assertRaisesRegex(ValueError, 'batch.*8 workers'):
      fn(chains.params(), jnp.zeros((12, 6)))


if __name__ == '__main__':
  absltest.main()
