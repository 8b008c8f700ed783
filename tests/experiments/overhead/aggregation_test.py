"""The overhead table, small: its ways agree, and its record is whole."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh

from experiments.cost import collectives
from experiments.overhead import aggregation, running
from experiments.overhead.config import Config
from tests import helpers


class OverheadTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_the_ways_agree(self):
    mesh = Mesh(np.array(jax.devices()), ('workers',))
    rows = np.random.default_rng(0).normal(size=(8, 5000)).astype('f')
    grads = {'a': rows[:, :3000] + 1, 'b': rows[:, 3000:]}
    result = {name: aggregation.compile_step(way, grads, mesh)(grads)
              for name, way in aggregation.WAYS.items()}
    for name in ('agreement, gathered', 'tracked mean', 'agreement'):
      # All gradients are within the threshold, so filtering is the mean too.
      helpers.assert_close(result[name], result['mean'], 1e-5, 1e-6)
    # Each of two roundings by at most one of 127, and of 7, parts of 5.
    for name, level in (('8-bit mean', 5 / 127), ('4-bit mean', 5 / 7)):
      helpers.assert_close(result[name], result['mean'], 0, 2 * level)

  def test_the_state_is_carried_from_step_to_step(self):
    mesh = Mesh(np.array(jax.devices()), ('workers',))
    grads = {'a': np.ones((8, 4), 'f')}
    step = aggregation.compile_step(
      aggregation.WAYS['delay of 4, mean'], grads, mesh)
    seen = [float(step(grads)['a'][0, 0]) for _ in range(6)]
    self.assertEqual(seen, [0, 0, 0, 0, 1, 1])

  @pytest.mark.slow
  def test_record_and_ratios(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = Config(
      workdir=str(folder / 'run'), sizes=(1_000_000,), rounds=1,
      num_layers=3, parts=('exchange', 'layers'))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      record = running.run(config)
    self.assertEqual(
      json.loads((folder / 'run' / 'overhead.json').read_text()),
      json.loads(json.dumps(record)))
    for ways in record['exchange'].values():
      # What no clock decides: a fifth of the memory, a quarter of the traffic,
      # and the traffic of an all-reduce.
      ratio = lambda *pair: aggregation.ratio(ways, *pair)
      pair = 'agreement', 'agreement, gathered'
      self.assertLess(ratio('memory', *pair), 0.2)
      self.assertAlmostEqual(ratio('sent', *pair), 0.25, 2)
      self.assertBetween(ratio('sent', 'agreement', 'mean'), 0.99, 1.01)
      self.assertBetween(ratio('sent', '8-bit mean', 'mean'), 0.25, 0.27)
      self.assertBetween(ratio('sent', '4-bit mean', 'mean'), 0.125, 0.14)
      # Tracking adds scalars to the all-reduce; a ring has two neighbors.
      self.assertBetween(ratio('sent', 'tracked mean', 'mean'), 1, 1.001)
      self.assertAlmostEqual(ways['gossip on a ring']['sent'], 2, 2)
      self.assertEqual(ways['gossip on a ring']['collectives'],
                       {'collective-permute': 2})
      self.assertTrue(all(way['milliseconds'] > 0 for way in ways.values()))
    layers = record['layers']['ways']
    # A handful of leaves, however many layers.
    self.assertLess(layers['tracked by layer']['state_leaves'], 15)
    for word in ('agreement / mean', 'agreement / agreement, gathered',
                 'tracked by layer', 'record: '):
      self.assertIn(word, out.getvalue())

  @parameterized.parameters(
    (dict(sizes=(3,)), '--sizes=.*num_leaves'),
    (dict(num_workers=1), '--num_workers=1'),
    (dict(dtype='int8'), "--dtype='int8'"),
    (dict(rounds=0), '--rounds=0'))
  def test_bad_flags(self, flags, message):
    with self.assertRaisesRegex(ValueError, message):
      Config(**flags)

  def test_a_bad_flag_is_told_before_jax_is_imported(self):
    code = ('import atexit, runpy, sys; sys.argv.append("--rounds=0"); '
            'atexit.register(lambda: print("jax" in sys.modules)); '
            'runpy.run_module("experiments.overhead", run_name="__main__")')
    done = subprocess.run([sys.executable, '-c', code], text=True,
                          capture_output=True, timeout=60)
    self.assertEqual((done.returncode, done.stdout), (2, 'False\n'))
    self.assertRegex(done.stderr, '^--rounds=0: must be at least 1\n$')

  def test_more_workers_than_devices(self):
    with self.assertRaisesRegex(ValueError, 'at most the 8 devices'):
      running.run(Config(num_workers=9))


class CompiledTest(absltest.TestCase):

  def test_collectives_of_a_program(self):
    mesh = Mesh(np.array(jax.devices()), ('workers',))

    def fn(x):
      total = jax.lax.psum(x, 'workers')
      dealt = jax.lax.all_to_all(x, 'workers', 0, 0, tiled=True)
      return total + dealt, jax.lax.all_gather(x, 'workers', tiled=True)

    spec = jax.sharding.PartitionSpec('workers')
    text = jax.jit(jax.shard_map(
      fn, mesh=mesh, in_specs=spec, out_specs=spec)).lower(
        jnp.ones((64, 5))).compile().as_text()
    self.assertEqual(sorted(collectives.collectives(text)), [
      ('all-gather', 320), ('all-reduce', 40), ('all-to-all', 40)])
    self.assertAlmostEqual(
      collectives.bytes_sent(text, 8), 4 * 7 / 8 * (320 + 2 * 40 + 40))

  def test_asynchronous_collectives(self):
    found = collectives.collectives(
      '  %a = (f32[4]{0}, f32[32]{0}) all-gather-start(f32[4]{0} %b)\n'
      '  %c = f32[32]{0} all-gather-done(%a)\n'
      '  %d = f32[3,4]{1,0} all-reduce-start(%e)')
    self.assertEqual(found, [('all-gather', 32), ('all-reduce', 12)])

  def test_bytes_of_several_dtypes(self):
    sent = lambda shapes: collectives.bytes_sent(
      f'  %a = {shapes} all-to-all(%b)', 2)
    self.assertEqual(sent('(f32[4]{0}, bf16[6]{0}, pred[2]{0})'), 15)
    self.assertEqual(sent('f8e4m3fn[10]{0}'), 5)

  def test_bytes_of_each_collective(self):
    sent = lambda name, shapes: collectives.bytes_sent(
      f'  %a = {shapes} {name}(%b)', 8)
    self.assertEqual(sent('reduce-scatter', 'f32[10]{0}'), 280)
    self.assertEqual(sent('collective-permute', 'f32[10]{0}'), 40)
    # Operands first, then results.
    self.assertEqual(sent(
      'all-gather-start', '((f32[2]{0}, u8[3]{0}), (f32[16]{0}, u8[24]{0}))'),
      7 / 8 * (64 + 24))


if __name__ == '__main__':
  absltest.main()
