"""The table of the per-example statistics, small: right, whole, and honest."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.overhead import (
  sizes as overhead_sizes,
  ways as overhead_ways,
  workloads as overhead_models,
)
from experiments.overhead.examples import config, measuring as examples

TINY = {
  'mlp': {'batch_size': 4, 'input_shape': [6], 'hidden': [5]},
  'cnn': {'batch_size': 2, 'input_shape': [8, 8, 1], 'channels': [2, 3],
          'hidden': [4]},
  'lstm': {'batch_size': 3, 'input_shape': [7], 'embed': 4, 'hidden': 5},
}


def tiny(name):
  return overhead_models.build(
    overhead_sizes.resized(name, TINY[name]))


def clipped_grad(loss, *, l2_clip_norm, normalize_by, keep_batch_dim,
                 return_values, return_grad_norms):
  """Do what JAX-Privacy documents, for what is asked of it here."""
  assert (np.isinf(l2_clip_norm), keep_batch_dim) == (True, False)
  assert return_values and return_grad_norms

  def fn(params, batch):
    values, grads = jax.vmap(
      jax.value_and_grad(loss), (None, 0))(params, batch)
    norms = jnp.sqrt(sum(jnp.sum(g**2, axis=range(1, g.ndim))
                         for g in jax.tree.leaves(grads)))
    return (jax.tree.map(lambda g: g.sum(axis=0) / normalize_by, grads),
            types.SimpleNamespace(values=values, grad_norms=norms))

  return fn


def with_jax_privacy(module):
  return mock.patch.dict(sys.modules, {'jax_privacy': module})


class OverheadExamplesTest(parameterized.TestCase):

  @parameterized.parameters(*overhead_ways.WAYS)
  def test_each_way_against_one_example_after_the_other(self, way):
    problem = tiny('mlp')
    with with_jax_privacy(types.SimpleNamespace(clipped_grad=clipped_grad)):
      step = overhead_ways.WAYS[way](problem.loss)
      got = jax.jit(step)(problem.params, problem.batch)
    errors = examples.errors(
      got, examples.one_by_one(problem))
    self.assertEqual(errors['norm_error'] is None, way == 'plain')
    for name, error in errors.items():
      self.assertLess(error or 0, 1e-5, name)
    jax.tree.map(
      lambda g, p: self.assertEqual((g.shape, g.dtype), (p.shape, p.dtype)),
      got[1], problem.params)

  @pytest.mark.slow
  def test_one_after_the_other(self):
    problem = tiny('lstm')
    loss, mean, sq_norms = examples.one_by_one(problem)
    step = jax.jit(jax.value_and_grad(problem.loss))
    wanted, grads = step(problem.params, problem.batch)
    self.assertAlmostEqual(loss, float(wanted), 5)
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
    np.testing.assert_allclose(mean, flat, rtol=1e-4, atol=1e-6)
    last = jax.tree.map(lambda x: x[2], problem.batch)
    self.assertEqual(sq_norms.shape, (3,))
    np.testing.assert_allclose(sq_norms[2], sum(
      np.sum(np.square(g)) for g in jax.tree.leaves(
        step(problem.params, last)[1])), rtol=1e-5)

  def test_errors(self):
    wanted = 2., np.array([3., 4.]), np.array([1., 2., 5.])
    grads = {'a': np.array([3.]), 'b': np.array([[4.5]])}
    errors = lambda squares: examples.errors(
      (2.5, grads, squares), wanted)
    self.assertEqual(errors(np.array([1., 1., 6.])), {
      'loss_error': 0.25, 'grad_error': 0.1, 'norm_error': 0.5})
    self.assertAlmostEqual(errors(np.array(4.))['norm_error'], 0.5)
    self.assertIsNone(errors(None)['norm_error'])

  @pytest.mark.slow
  def test_table_and_record(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    flags = config.Config(
      workdir=folder, workloads=('mlp', 'cnn'), sizes=json.dumps(TINY),
      rounds=1)
    with contextlib.redirect_stdout(io.StringIO()) as out, with_jax_privacy(
        None):
      record = examples.run(flags)
    path = pathlib.Path(folder) / 'overhead_examples.json'
    self.assertEqual(json.loads(path.read_text()),
                     json.loads(json.dumps(record)))
    text = out.getvalue()
    self.assertIn(f'record: {path}', text)
    # Where it is not installed: no row, and a line that says what to do.
    self.assertRegex(text, r"no row for jax_privacy .* '\.\[benchmark\]'")
    others = [way for way in overhead_ways.WAYS if way != 'jax_privacy']
    mlp, cnn = record['results']['mlp'], record['results']['cnn']
    self.assertEqual(list(mlp['ways']), others)
    self.assertEqual(list(cnn['ways']), others[:-1])  # the default of --skip
    self.assertEqual((mlp['num_examples'], mlp['num_parameters']),
                     (4, 7 * 5 + 6 * 10))
    # Forwards and backwards, but not to the inputs.
    self.assertEqual(mlp['ways']['plain']['flops'],
                     2 * 4 * (2 * 6 * 5 + 3 * 5 * 10))
    for result in (mlp, cnn):
      ways = result['ways']
      self.assertTrue(all(way['milliseconds'] > 0 for way in ways.values()))
      self.assertEqual(examples.ratio(ways, 'flops', 'vmap'), 1)
      row = next(
        line.split() for line in text[text.index(
          f'{result["num_parameters"]} parameters'):].splitlines()
        if line.startswith('vmap'))
      for cell, column in zip(row[2:7:2], examples.COLUMNS):
        wanted = ways['vmap'][column] / ways['plain'][column]
        self.assertEqual(cell, f'({wanted:.2f})')

  def test_wrong_numbers_are_refused(self):
    def wrong(loss):
      step = overhead_ways.by_vmap(loss)
      return lambda params, batch: (
        *step(params, batch)[:2], 1.01 * step(params, batch)[2])

    flags = config.Config(sizes=json.dumps(TINY))
    ways = {'plain': overhead_ways.plain, 'wrong': wrong}
    with (mock.patch.object(examples, 'WAYS', ways),
          self.assertRaisesRegex(RuntimeError, 'mlp: wrong is wrong: .*0.0')):
      examples.measure(flags, 'mlp')

  def test_the_flags_name_every_way(self):
    self.assertEqual(config.WAYS, tuple(overhead_ways.WAYS))

  def test_default_sizes(self):
    shapes = {}
    for name, sizes in overhead_sizes.WORKLOADS.items():
      params = jax.eval_shape(
        overhead_models.network(sizes).init, jax.random.key(0))
      shapes[name] = sum(x.size for x in jax.tree.leaves(params))
    self.assertEqual(shapes['mlp'], 785 * 512 + 513 * 512 + 513 * 10)
    self.assertEqual(shapes['resnet18'], 11173962)
    self.assertEqual(
      shapes['transformer'],
      (2 * 256 + 128 + 2) * 256 + 256 + 4 * (12 * 256**2 + 13 * 256))

  @parameterized.parameters(
    (dict(workloads=('vgg',)), "--workloads=vgg: must be some of mlp, cnn"),
    (dict(workloads=()), '--workloads='),
    (dict(skip=('mlp:plain',)), '--skip=.*never plain'),
    (dict(skip=('vmap',)), '--skip=.*resnet18:vmap'),
    (dict(rounds=0), '--rounds=0'),
    (dict(seconds=-1.), '--seconds=-1'),
    (dict(sizes='[1]'), '--sizes=.*JSON object'),
    (dict(sizes='{"vgg": {}}'), '--sizes=.*one object for each of mlp'),
    (dict(sizes='{"mlp": 3}'), '--sizes=.*one object for each of mlp'),
    (dict(sizes='{"mlp": {"batch_size": 0}}'), 'batch_size is 0; allowed'),
    (dict(sizes='{"mlp": {"depth": 3}}'), 'depth=3 is no option'),
    (dict(sizes='{"cnn": {"input_shape": [8]}}'), 'input_shape is .8,.;'))
  def test_bad_flags(self, flags, message):
    with self.assertRaisesRegex(ValueError, message):
      config.Config(**flags)


if __name__ == '__main__':
  absltest.main()
