"""What `explain` says of a loss, and of all networks of the experiments."""

import math

import jax
import jax.numpy as jnp
import pytest
from absl.testing import absltest, parameterized

from experiments import data, models
from experiments.common import flags, parsing
from gradiv import per_example
from gradiv.per_example._engine import costs
from tests.experiments import presets

# The images of each data set, and how many classes.
DATA = {'digits': ((8, 8, 1), 10), 'mnist': ((28, 28, 1), 10),
        'cifar10': ((32, 32, 3), 10), 'cifar100': ((32, 32, 3), 100),
        'cifar100_n': ((32, 32, 3), 100)}
FLOATS, WHOLE = jnp.float32, jnp.int32


def shaped(dtype, *shape):
  return jax.ShapeDtypeStruct(shape, dtype)


def tanh(w, x):
  return jnp.sum(jnp.tanh(x @ w))


def of_model(name, shape, num_classes, num_examples=2, **options):
  """Explain a network of the experiments, from shapes alone."""
  model = models.build(
    name, input_shape=shape, num_classes=num_classes, **options)
  params = jax.eval_shape(model.init, jax.random.key(0))
  is_text = name in models.TOKEN_MODELS
  batch = (shaped(WHOLE if is_text else FLOATS, num_examples, *shape),
           shaped(WHOLE, num_examples, *(shape if is_text else ())))
  rows = per_example.explain(lambda params, example: models.cross_entropy(
    model.apply(params, example[0]), example[1]), params, batch).rows
  assert len(rows) == len(jax.tree.leaves(params))
  return {row.name: row for row in rows}


def configured():
  """List the networks that defaults and flag files name."""
  found = {}
  for name, cls, options in presets.every_network():
    of = parsing.parse(cls, [name, '--workdir=unused', *options])
    found[name] = (of.model, *DATA[of.dataset], flags.options(of))
    if hasattr(of, 'text_model_options'):
      found[f'{name}_text'] = (
        getattr(of, 'text_model', 'lstm'), (of.text_length,), data.VOCAB_SIZE,
        flags.options(of, 'text_model_options'))
  return [(name, *network) for name, network in found.items()]


class ExplainTest(parameterized.TestCase):

  @parameterized.named_parameters(configured())
  @pytest.mark.slow
  def test_networks_of_the_experiments(self, name, shape, classes, options):
    """At most a twentieth of the parameters is written out in chunks."""
    rows = of_model(name, shape, classes, **options).values()
    total = sum(math.prod(row.shape) for row in rows)
    written = sum(math.prod(row.shape) for row in rows
                  if row.rule in ('fallback', 'mixture'))
    self.assertLessEqual(written, 0.05 * total)
    self.assertGreater(total, 100)

  def test_all_flag_files_are_looked_at(self):
    names = {name for name, *_ in configured()}
    self.assertNotEmpty(presets.PRESETS)
    self.assertContainsSubset(map(presets.name_of, presets.PRESETS), names)

  @parameterized.named_parameters(
    ('mlp', 'mlp', (8, 8, 1), {'hidden': (32,)}, {
      'dense_0/kernel': ('dot_general', 'outer'),
      'out/kernel': ('dot_general', 'outer')}),
    ('cnn', 'cnn', (8, 8, 1), {'channels': (4, 8), 'hidden': (16,)}, {
      'conv_0/kernel': ('conv_general_dilated', 'direct'),
      'head/dense_0/kernel': ('dot_general', 'outer')}),
    ('lstm', 'lstm', (6,), {'embed': 4, 'hidden': 64}, {
      'embed/embedding': ('scatter-add', 'direct'),
      'lstm_0/recurrent/kernel': ('dot_general', 'gram')}),
    ('transformer', 'transformer', (6,), {'width': 64, 'layers': 1}, {
      'embed/embedding': ('scatter-add', 'gram'),
      'layer_0/attention/read/kernel': ('dot_general', 'gram'),
      'layer_0/dense_0/kernel': ('dot_general', 'gram'),
      'layer_0/dense_1/bias': ('example', 'written out')}))
  def test_rules_and_methods(self, name, shape, options, expected):
    rows = of_model(name, shape, 10, **options)
    found = {leaf: (rows[leaf].rule, rows[leaf].method) for leaf in expected}
    self.assertEqual(found, expected)

  @parameterized.parameters((2, 3, 5), (2, 40, 24), (8, 3, 24), (8, 40, 5))
  def test_costs_are_those_of_the_formulas(self, n, positions, side):
    """n·k·(a+b) products of positions, or n·a·b elements, squared."""
    k, a, b = positions, side, 2 * side
    row, = per_example.explain(
      tanh, shaped(FLOATS, a, b), shaped(FLOATS, n, k, a)).rows
    gram = (2 * n * k**2 * (a + b), 4 * n * 4 * k**2)
    direct = (2 * n * a * b, 4 * n * 2 * a * b)
    self.assertEqual((row.flops, row.num_bytes),
                     {'gram': gram, 'direct': direct}[row.method])
    # In the time of a number that is moved, 32 operations are done.
    weigh = lambda flops, moved: flops + 32 * moved / 4
    cheapest = min((weigh(*gram), 'gram'), (weigh(*direct), 'direct'))[1]
    self.assertEqual(row.method, cheapest)

  def test_one_position_is_outer(self):
    row, = per_example.explain(
      tanh, shaped(FLOATS, 30, 20), shaped(FLOATS, 4, 30)).rows
    self.assertEqual((row.method, row.flops, row.num_bytes),
                     ('outer', 2 * 4 * 50, 4 * 4 * 50))

  def test_a_fallback_names_the_primitive(self):
    size = 2**11
    with absltest.mock.patch.object(costs, 'WHOLE', 0):
      explanation = per_example.explain(
        lambda w, x: jnp.sum(jnp.cumsum(jnp.sin(w * x))),
        shaped(FLOATS, size), shaped(FLOATS, 3, size))
    row, = explanation.rows
    self.assertEqual((row.rule, row.method), ('fallback', 'written out'))
    self.assertEqual(row.reason, 'no product behind mul')
    self.assertEqual(explanation.fallback_fraction, 1)
    self.assertIn('of 2,048 parameters, 100.0 % fall back', str(explanation))

  def test_prints_as_a_table(self):
    loss_fn = lambda p, x: jnp.sum(jnp.tanh(x @ p['w'] + p['b'])) + (
      jnp.sum(p['c']**2))
    params = {'w': shaped(FLOATS, 30, 20), 'b': shaped(FLOATS, 20),
              'c': shaped(FLOATS)}
    explanation = per_example.explain(loss_fn, params, shaped(FLOATS, 4, 30))
    self.assertEqual([row.rule for row in explanation.rows],
                     ['example', 'common', 'dot_general'])
    lines = [
      'leaf  shape   rule         method       extra FLOPs  extra bytes  why',
      'b     20      example      written out          160          640  '
      'not a product; small enough to be written out',
      'c     scalar  common       once                   0            0',
      'w     30x20   dot_general  outer                400          800',
      'of 621 parameters, 0.0 % fall back']
    self.assertEqual(str(explanation).splitlines(), lines)
    self.assertEqual(repr(explanation), str(explanation))

  def test_arrays_and_their_shapes_are_explained_alike(self):
    def loss_fn(w, x, target, power, kind):
      assert kind == 'tanh'
      return jnp.sum((jnp.tanh(x @ w) - target['w'][:1])**power)

    arrays = (jnp.ones((30, 20)), jnp.ones((4, 6, 30)),
              {'w': jnp.ones((30, 20))})
    shapes = jax.tree.map(lambda x: shaped(x.dtype, *x.shape), arrays)
    self.assertEqual(per_example.explain(loss_fn, *arrays, 2, 'tanh'),
                     per_example.explain(loss_fn, *shapes, 2, 'tanh'))


if __name__ == '__main__':
  absltest.main()
