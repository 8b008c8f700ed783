"""Tests of the models: sizes by closed form, gradients of single examples."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import flatten_util

from experiments import models

# name, input_shape, num_classes, options, number of parameters
TINY = (
    ('logistic', (4, 4, 1), 3, {}, 17 * 3),
    ('mlp', (4, 4, 1), 3, {'hidden': (5, 6)}, 17 * 5 + 6 * 6 + 7 * 3),
    ('cnn', (8, 8, 1), 3, {'channels': (2, 4), 'hidden': (5,)},
     (9 + 1) * 2 + (18 + 1) * 4 + (4 * 4 + 1) * 5 + 6 * 3),
    ('cuda_convnet', (8, 8, 3), 3, {'channels': (2, 3), 'hidden': (5, 4)},
     76 * 2 + 51 * 3 + (4 * 3 + 1) * 5 + 6 * 4 + 5 * 3),
    ('resnet18', (8, 8, 3), 3, {'width': 4}, None),
    ('lstm', (6,), 5, {'embed': 3, 'hidden': 4, 'layers': 2},
     5 * 3 + (3 + 1 + 4) * 16 + (4 + 1 + 4) * 16 + 5 * 5),
    ('transformer', (6,), 5, {'width': 4, 'heads': 2, 'layers': 2},
     (5 + 6) * 4 + 2 * (2 * 8 + 5 * 12 + 5 * 4 + 5 * 16 + 17 * 4) + 8 + 5 * 5),
)
# Compiled once and run once: optimized code would cost more than it saves.
jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})
tiny = parameterized.named_parameters((row[0], *row) for row in TINY)


@functools.cache
def batch_of(name, input_shape, num_classes, size=3):
  """Return inputs [size, *input_shape] and the labels that go with them."""
  rng = np.random.default_rng(0)
  if name in ('lstm', 'transformer'):
    # The alphabet in its order, from different letters on.
    text = np.arange(size)[:, None] + np.arange(input_shape[0] + 1)
    text %= num_classes
    return (jnp.asarray(text[:, :-1], jnp.int32),
            jnp.asarray(text[:, 1:], jnp.int32))
  x = jnp.asarray(rng.normal(size=(size, *input_shape)), jnp.float32)
  return x, jnp.asarray(rng.integers(num_classes, size=size), jnp.int32)


@functools.cache
def tiny_model(name):
  """Return (model, params, loss) of a row of TINY, built once for all tests."""
  _, shape, classes, options, _ = next(row for row in TINY if row[0] == name)
  model = models.build(name, input_shape=shape, num_classes=classes, **options)

  def loss(params, x, y):
    return models.cross_entropy(model.apply(params, x), y)

  return model, jit(model.init)(jax.random.key(0)), loss


def count(params):
  return sum(x.size for x in jax.tree.leaves(params))


class ModelTest(parameterized.TestCase):

  @tiny
  def test_shapes_and_sizes(self, name, shape, classes, options, num_params):
    del options
    model, params, _ = tiny_model(name)
    x, y = batch_of(name, shape, classes)
    logits = jax.eval_shape(model.apply, params, x)
    self.assertEqual(logits.shape, (*y.shape, classes))
    self.assertEqual(logits.dtype, jnp.float32)
    one = jax.eval_shape(model.apply, params, x[0])
    self.assertEqual(one.shape, (*y.shape[1:], classes))
    two = jax.eval_shape(model.apply, params, jnp.stack([x, x]))
    self.assertEqual(two.shape, (2, *y.shape, classes))
    if num_params is not None:
      self.assertEqual(count(params), num_params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      self.assertEqual(leaf.dtype, jnp.float32)
      for entry in path:
        self.assertIsInstance(entry, jax.tree_util.DictKey)
        self.assertIsInstance(entry.key, str)

  @parameterized.parameters(
      ('cnn', (8, 8, 1), 160 + 4640 + (2 * 2 * 32 + 1) * 64 + 650),
      ('cnn', (28, 28, 1), 160 + 4640 + (7 * 7 * 32 + 1) * 64 + 650),
      # 4864 + 102464 + 4097 * 384 + 385 * 192 + 193 * 10:
      ('cuda_convnet', (32, 32, 3), 1756426),
      # The 11173962 of the common CIFAR ResNet-18, GroupNorm for BatchNorm.
      ('resnet18', (32, 32, 3), 11173962),
      ('logistic', (32, 32, 3), 30730),
  )
  def test_default_sizes(self, name, input_shape, num_params):
    model = models.build(name, input_shape=input_shape, num_classes=10)
    params = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(count(params), num_params)
    x = jax.ShapeDtypeStruct((2, *input_shape), jnp.float32)
    self.assertEqual(jax.eval_shape(model.apply, params, x).shape, (2, 10))

  @pytest.mark.slow
  def test_last_stage_of_resnet_at_one_pixel_is_not_constant(self):
    model, params, _ = tiny_model('resnet18')
    x, _ = batch_of('resnet18', (8, 8, 3), 3)
    logits = jit(model.apply)(params, x)
    self.assertGreater(float(jnp.std(logits, axis=0).max()), 1e-2)

  @tiny
  @pytest.mark.slow
  def test_kernels_have_the_spread_that_keeps_signals_alive(
      self, name, shape, classes, options, num_params):
    del num_params
    wide = {
        'mlp': {'hidden': (200, 200)},
        'cnn': {'channels': (20, 40), 'hidden': (200,)},
        'cuda_convnet': {'channels': (20, 20), 'hidden': (200, 200)},
        'resnet18': {'width': 16},
        'lstm': {'embed': 40, 'hidden': 60, 'layers': 1},
        'transformer': {'width': 40, 'heads': 2, 'layers': 1},
    }.get(name, options)
    model = models.build(name, input_shape=shape, num_classes=classes, **wide)
    params = jit(model.init)(jax.random.key(1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      keys = [entry.key for entry in path]
      if keys[-1] in ('bias', 'scale'):
        np.testing.assert_array_equal(leaf, float(keys[-1] == 'scale'))
        continue
      fan_in = math.prod(leaf.shape[:-1])
      if keys[-1] == 'embedding':
        fan_in = leaf.shape[-1]
      gain = 1 if shape == (6,) or keys[-2] == 'out' else 2
      # Variances of a cut normal: (kurtosis - 1) / n below that of a normal.
      tolerance = 4 * math.sqrt(2 / leaf.size)
      self.assertAlmostEqual(
          float(jnp.mean(leaf ** 2)) * fan_in / gain, 1, delta=tolerance)
      self.assertLess(abs(float(leaf.mean())) * math.sqrt(fan_in / gain),
                      4 / math.sqrt(leaf.size))
      self.assertGreater(len(np.unique(leaf)), 0.9 * leaf.size)

  @tiny
  @pytest.mark.slow
  def test_init_follows_the_key(self, name, *_):
    model, params, _ = tiny_model(name)
    keys = jax.random.split(jax.random.key(0), 2)
    init, lanes = jit(model.init), jit(jax.vmap(model.init))(keys)
    for i in range(2):
      single = init(keys[i])
      jax.tree.map(np.testing.assert_array_equal, single, init(keys[i]))
      jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b[i], rtol=1e-6),
          single, lanes)
    flat, _ = flatten_util.ravel_pytree(params)
    other, _ = flatten_util.ravel_pytree(init(keys[1]))
    self.assertFalse(np.array_equal(flat, other))
    self.assertEqual(init._cache_size(), 1)

  @tiny
  @pytest.mark.slow
  def test_gradients_of_examples_average_to_that_of_the_batch(
      self, name, shape, classes, *_):
    _, params, loss = tiny_model(name)
    x, y = batch_of(name, shape, classes)

    @jit
    def both(params, x, y):
      return (jax.grad(loss)(params, x, y),
              jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y))

    whole, single = both(params, x, y)
    both(jax.tree.map(lambda p: p + 1, params), x, y)
    self.assertEqual(both._cache_size(), 1)
    whole, _ = flatten_util.ravel_pytree(whole)
    single, _ = flatten_util.ravel_pytree(
        jax.tree.map(lambda g: g.mean(0), single))
    self.assertGreater(float(jnp.linalg.norm(whole)), 0)
    self.assertLess(float(jnp.linalg.norm(whole - single)),
                    1e-5 * float(jnp.linalg.norm(whole)))

  @tiny
  @pytest.mark.slow
  def test_examples_do_not_see_each_other(self, name, shape, classes, *_):
    model, params, _ = tiny_model(name)
    x, _ = batch_of(name, shape, classes)
    apply = jit(model.apply)
    changed = x.at[1].set((x[1] + 1) % classes)
    a, b = apply(params, x), apply(params, changed)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a[2], b[2], rtol=1e-5, atol=1e-6)
    self.assertGreater(float(jnp.abs(a[1] - b[1]).max()), 1e-4)

  def test_workers_of_a_shard_map(self):
    self.check_workers('mlp')

  @pytest.mark.slow
  def test_a_recurrent_network_of_workers(self):
    self.check_workers('lstm')

  def check_workers(self, name):
    _, params, loss = tiny_model(name)
    _, shape, classes, _, _ = next(row for row in TINY if row[0] == name)
    x, y = batch_of(name, shape, classes, size=4)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), 'workers')
    spec = jax.sharding.PartitionSpec

    def step(params, x, y):
      return jax.lax.pmean(jax.grad(loss)(params, x, y), 'workers')

    mapped = jit(jax.shard_map(
        step, mesh=mesh, in_specs=(spec(), spec('workers'), spec('workers')),
        out_specs=spec(), check_vma=False))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        mapped(params, x, y), jit(jax.grad(loss))(params, x, y))

  @parameterized.parameters(
      ('logistic', 0.1), ('mlp', 0.1), ('cnn', 0.1), ('lstm', 1.0),
      ('transformer', 0.1))
  @pytest.mark.slow
  def test_descent_lowers_the_loss(self, name, learning_rate):
    _, params, loss = tiny_model(name)
    _, shape, classes, _, _ = next(row for row in TINY if row[0] == name)
    x, y = batch_of(name, shape, classes)

    def step(params, _):
      value, grads = jax.value_and_grad(loss)(params, x, y)
      descend = lambda p, g: p - learning_rate * g
      return jax.tree.map(descend, params, grads), value

    _, losses = jit(lambda p: jax.lax.scan(step, p, length=100))(params)
    self.assertLess(float(losses[-1]), 0.5 * float(losses[0]))

  @parameterized.parameters(
      ({'name': 'vgg'}, "name is 'vgg'; allowed: logistic, mlp"),
      ({'input_shape': (8, 0, 1)}, r'input_shape is \(8, 0, 1\)'),
      ({'input_shape': ()}, r'input_shape is \(\)'),
      ({'name': 'cnn', 'input_shape': (64,)}, '3 positive integers'),
      ({'name': 'lstm'}, '1 positive integers'),
      ({'num_classes': 1}, 'num_classes is 1; allowed: an integer from 2'),
      ({'num_classes': 2.5}, 'num_classes is 2.5'),
      ({'width': 3}, 'width=3 is no option .*; allowed: hidden, activation'),
      ({'name': 'logistic', 'hidden': (3,)}, 'allowed: none'),
      ({'hidden': 64}, 'hidden is 64; allowed .* positive integers'),
      ({'hidden': (64, True)}, 'hidden is .64, True.'),
      ({'activation': 'swoosh'}, "activation is 'swoosh'; .*relu, gelu, tanh"),
      ({'activation': ['relu']}, 'activation is'),
      ({'name': 'cnn', 'channels': (3,)}, 'two positive integers'),
      ({'name': 'resnet18', 'width': 7}, 'width is 7; .* positive even'),
      ({'name': 'transformer', 'input_shape': (6,), 'width': 6},
       'width is 6; .* a multiple of the 4 heads'),
  )
  def test_bad_arguments(self, arguments, message):
    arguments = {'name': 'mlp', 'input_shape': (8, 8, 1), 'num_classes': 10,
                 **arguments}
    with self.assertRaisesRegex(ValueError, message):
      models.build(arguments.pop('name'), **arguments)

  def test_sizes_may_be_integers_of_numpy(self):
    three = np.int64(3)
    model = models.build('mlp', input_shape=(three,), num_classes=three,
                         hidden=(three,))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(shapes['out']['kernel'].shape, (3, 3))

  @parameterized.parameters(('mlp', (3, 5)), ('mlp', (4,)), ('lstm', ()))
  def test_inputs_of_a_wrong_shape(self, name, shape):
    model, params, _ = tiny_model(name)
    with self.assertRaisesRegex(ValueError, 'inputs have the shape'):
      model.apply(params, jnp.zeros(shape, jnp.int32))


class LossTest(parameterized.TestCase):

  @parameterized.parameters(((),), ((4,),), ((2, 3),))
  def test_cross_entropy_against_numpy(self, leading):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*leading, 5)).astype(np.float32)
    labels = rng.integers(5, size=leading)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(log_p, labels[..., None], -1).mean()
    got = jit(models.cross_entropy)(logits, jnp.asarray(labels))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)

  def test_bfloat16_is_averaged_in_float32(self):
    logits = jnp.zeros((3, 10), jnp.bfloat16)
    got = models.cross_entropy(logits, jnp.array([1, 2, 3]))
    self.assertEqual(got.dtype, jnp.float32)
    np.testing.assert_allclose(got, math.log(10), rtol=1e-6)

  def test_accuracy(self):
    logits = jnp.array([[[0., 1.], [1., 0.]], [[0., 1.], [0., 1.]]])
    got = models.accuracy(logits, jnp.array([[1, 1], [1, 0]]))
    self.assertEqual((got.dtype, float(got)), (jnp.float32, 0.5))


if __name__ == '__main__':
  absltest.main()
