"""Rules over whole gradients under FSDP: what they compute and cost."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from jax.sharding import AxisType

from examples import fsdp_global_rule as example
from experiments.cost import collectives
from gradiv.meshes import fsdp

ROOT = pathlib.Path(__file__).parents[2]
N, LAYERS, WIDTH = 8, example.LAYERS, example.WIDTH
MESH = jax.make_mesh((N,), ('data',), axis_types=(AxisType.Auto,))
RNG = np.random.default_rng(2)
PARAMS = {'w': RNG.normal(size=(LAYERS, WIDTH, WIDTH)).astype('f') / WIDTH}
BATCH = {name: RNG.normal(size=(N * example.BATCH, WIDTH)).astype('f')
         for name in 'xy'}


def plain(params, batch, weights):
  probes = fsdp.probes(params, 'data', (LAYERS,))
  return jax.grad(lambda p: example.own_loss(
    p, probes, batch, fsdp.gather))(params), weights


def whole_gradients():
  """Compute the gradient of each worker, [n, ...]."""
  take_whole = lambda w, probe, axis: w
  of_worker = lambda batch: jax.grad(lambda p: example.own_loss(
    p, p, batch, take_whole))(PARAMS)
  return jax.vmap(of_worker)(jax.tree.map(
    lambda x: x.reshape(N, -1, WIDTH), BATCH))['w']


def gram_of(grads):
  rows = grads.reshape(N, -1)
  return jnp.float32(rows @ rows.T)


class NumbersTest(absltest.TestCase):

  @pytest.mark.slow
  def test_two_passes_are_exact(self):
    grads, weights = example.step_of(example.two_passes, MESH)(
      PARAMS, BATCH, jnp.zeros(N))
    whole = whole_gradients()
    np.testing.assert_allclose(weights, example.RULE(gram_of(whole)), 1e-4)
    expected = np.tensordot(weights, whole, 1)
    np.testing.assert_allclose(
      grads['w'], expected, 1e-4, 1e-6 * np.abs(expected).max())

  @pytest.mark.slow
  def test_last_weights_act_now_and_the_present_ones_next(self):
    given = jnp.float32(RNG.dirichlet(np.ones(N))).at[3].set(0)
    grads, weights = example.step_of(example.last_weights, MESH)(
      PARAMS, BATCH, given)
    whole = whole_gradients()
    np.testing.assert_allclose(weights, example.RULE(gram_of(whole)), 1e-4)
    expected = np.tensordot(np.maximum(given, example.LEAST), whole, 1)
    np.testing.assert_allclose(
      grads['w'], expected, 1e-4, 1e-6 * np.abs(expected).max())


class CostTest(absltest.TestCase):

  def test_costs_are_those_of_the_docstring(self):
    texts = {way: example.step_of(way, MESH).lower(
      PARAMS, BATCH, jnp.zeros(N)).compile().as_text()
      for way in (plain, example.two_passes, example.last_weights)}
    # Those of activations with parameters, not of the Gram matrix.
    size = f'{example.BATCH},{WIDTH}|{WIDTH},{WIDTH}'
    products = {way: len(re.findall(rf'f32\[(?:{size})\]\S* dot\(', text))
                for way, text in texts.items()}
    # Forward, and back: forward once more (remat), and for both factors.
    self.assertEqual(products[plain], 1 + 3)
    self.assertEqual(products[example.last_weights], 1 + 3)
    self.assertEqual(products[example.two_passes], 1 + 3 + 3)
    layer, sent = WIDTH * WIDTH, {
      way: sorted(collectives.collectives(text))
      for way, text in texts.items()}
    gather = [('all-gather', layer)]  # in a pass
    scatter, across = ('reduce-scatter', layer // N), ('all-to-all', layer)
    gram = ('all-reduce', N * N)
    self.assertEqual(sent[plain], sorted([*2 * gather, scatter]))
    self.assertEqual(sent[example.last_weights],
                     sorted([*2 * gather, across, gram]))
    self.assertEqual(sent[example.two_passes],
                     sorted([*3 * gather, across, scatter, gram]))


class ScriptTest(absltest.TestCase):

  def test_at_most_sixty_lines(self):
    code = pathlib.Path(example.__file__).read_text().split('"""', 2)[2]
    self.assertLessEqual(len([x for x in code.splitlines() if x.strip()]), 60)

  @pytest.mark.slow
  def test_the_mistaken_worker_loses_weight(self):
    code = ('import jax, runpy; jax.config.update("jax_num_cpu_devices", 8);'
            'runpy.run_module("examples.fsdp_global_rule", '
            'run_name="__main__")')
    done = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, text=True, check=True,
      capture_output=True, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    found = re.findall(r'(\w+): the first worker weighs ([0-9.]+)',
                       done.stdout)
    self.assertEqual([name for name, _ in found],
                     ['two_passes', 'last_weights'])
    for _, weight in found:
      self.assertBetween(float(weight), 0.01, 0.7 / N)


if __name__ == '__main__':
  absltest.main()
