"""A batch that lies on several devices, under plain jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import collectives as cost
from tests import helpers

N = 32
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32) / 3


def network(params, x):
  hidden = jnp.tanh(x @ params['in'] + params['bias'])
  return jnp.sum((hidden @ params['out'])**2)


def attention(params, x):
  """Layers in a scan, over a sequence [T, width]."""
  def layer(h, p):
    scores = jax.nn.softmax((h @ p['q']) @ (h @ p['k']).T)
    return h + scores @ jnp.tanh(h @ p['v']), None

  last, _ = lax.scan(jax.checkpoint(layer), x, params)
  return jnp.mean(last**2)


def convolution(params, x):
  """Large enough for its products to be written out in chunks."""
  same = lambda x, w: lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return jnp.sum(same(jnp.tanh(same(x[None], params['a'])), params['b'])**2)


MODELS = {
  'network': (network, {'in': normal(6, 16), 'bias': normal(16),
                        'out': normal(16, 4)}, normal(N, 6)),
  'attention': (attention, {k: normal(2, 16, 16) for k in 'qkv'},
                normal(N, 12, 16)),
  'convolution': (convolution, {'a': normal(3, 3, 3, 16),
                                'b': normal(3, 3, 16, 8)},
                  normal(N, 8, 8, 3)),
}


def plain(loss):
  return lambda params, batch: jax.value_and_grad(lambda p: jnp.mean(
    jax.vmap(loss, (None, 0))(p, batch)))(params)


def norms(loss, **options):
  def fn(params, batch):
    losses, squares, combine = gradiv.example_sq_norms(
      loss, **options)(params, batch)
    return losses, squares, combine(squares / N)
  return fn


def gram(loss):
  def fn(params, batch):
    losses, matrix, combine = gradiv.example_gram(loss)(params, batch)
    return losses, matrix, combine(matrix.mean(1))
  return fn


def of_batch(loss):
  return gradiv.as_value_and_grad(
    lambda params, batch: jnp.mean(jax.vmap(loss, (None, 0))(params, batch)))


WAYS = {
  'moments': gradiv.example_moments, 'norms': norms, 'gram': gram,
  'of_batch': of_batch,
  'microbatches': lambda loss: gradiv.example_moments(loss, microbatch_size=8),
  'norms_of_microbatches': lambda loss: norms(loss, microbatch_size=8),
}


def compiled(fn, params, batch, types, specs=P()):
  mesh = Mesh(np.array(jax.devices()), ('data',), axis_types=(types,))
  place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
  params = jax.tree.map(
    place, params, jax.tree.broadcast(
      specs, params, is_leaf=lambda s: isinstance(s, P)))
  batch = place(batch, P('data'))
  program = jax.jit(fn).lower(params, batch).compile()
  return program(params, batch), cost.collectives(program.as_text())


class ShardedBatchTest(parameterized.TestCase):

  def check_costs(self, model, way, types):
    loss, params, batch = MODELS[model]
    fn = WAYS[way](loss)
    found, sent = compiled(fn, params, batch, types)
    helpers.assert_close(found, jax.jit(fn)(params, batch), of_largest=5e-6)
    if way == 'gram':
      return  # every two examples have to meet
    _, base = compiled(plain(loss), params, batch, types)
    self.assertEqual({name for name, _ in sent}, {name for name, _ in base})
    # The gradient, and scalars: at most two for each parameter.
    elements = sum(x.size for x in jax.tree.leaves(params))
    self.assertLessEqual(
      sum(size for _, size in sent), elements + 2 * len(params) + 2)

  @parameterized.parameters(
    ('convolution', 'moments', AUTO), ('attention', 'moments', EXPLICIT),
    ('network', 'norms', EXPLICIT))
  def test_costs_of_a_plain_step(self, model, way, types):
    self.check_costs(model, way, types)

  @parameterized.product(model=tuple(MODELS), way=tuple(WAYS),
                         types=(AUTO, EXPLICIT))
  @pytest.mark.slow
  def test_costs_of_a_plain_step_everywhere(self, model, way, types):
    self.check_costs(model, way, types)

  @pytest.mark.slow
  def test_the_gram_matrix_gathers_both_factors_of_each_layer(self):
    """No more than that: every two examples have to meet."""
    loss = lambda p, x: jnp.mean((jnp.tanh(x @ p['a']) @ p['b'])**2)
    params = {'a': normal(40, 48), 'b': normal(48, 40)}
    fn = lambda params, batch: gradiv.example_gram(loss)(params, batch)[1]
    _, sent = compiled(fn, params, normal(N, 40), AUTO)
    self.assertEqual(sorted(sent), [
      ('all-gather', N * 40), ('all-gather', N * 40),
      ('all-gather', N * 48), ('all-gather', N * 48)])

  def test_results_lie_as_those_of_a_plain_step(self):
    loss, params, batch = MODELS['network']
    specs = {'in': P(None, 'data'), 'bias': P(), 'out': P('data')}
    fn = norms(loss)
    (losses, squares, total), _ = compiled(fn, params, batch, EXPLICIT, specs)
    self.assertEqual(losses.sharding.spec, P('data'))
    self.assertEqual(squares.sharding.spec, P('data'))
    self.assertEqual(total['in'].sharding.spec, P(None, 'data'))
    helpers.assert_close(total, jax.jit(fn)(params, batch)[2], of_largest=5e-6)


if __name__ == '__main__':
  absltest.main()
