"""The soak passes a binary that goes on, and finds what another one lost."""

import pathlib
import random
import shutil
import tempfile

import jax.numpy as jnp
import pytest
from absl.testing import absltest, parameterized

from experiments.common import parsing
from experiments.engine import checkpoints
from tests.experiments import presets
from tests.soak import binaries, ends, killed


class BinariesTest(parameterized.TestCase):

  @parameterized.parameters(*binaries.BINARIES)
  def test_flags_are_those_of_the_small_run(self, name):
    binary = binaries.BINARIES[name]
    _, paper = binary.module.split('.')
    cls = presets.CONFIGS.get(paper) or dict(
      (x, y) for x, y, _ in presets.every_network()).get(
        'mechanisms' if name == 'mechanisms' else 'batches')
    config = parsing.parse(cls, ['main', *binary.flags])
    self.assertEqual(binaries.as_flags(config), binary.flags)
    self.assertEqual(config.save_seconds, 0)
    self.assertLen(binary.commands(), binary.num_processes)


class EndsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.run, self.whole = root / 'run', root / 'whole'
    (self.whole / 'part').mkdir(parents=True)
    for name in ('summary.json', 'part/metrics.jsonl', 'part/timing.jsonl'):
      (self.whole / name).write_text(name)
    self.save(self.whole, 3, 1.0)
    shutil.copytree(self.whole, self.run)

  def save(self, root, step, value):
    store = checkpoints.Checkpoints(root / 'part' / 'checkpoints')
    store.save(step, {'w': jnp.full(2, value), 'empty': jnp.zeros(0)}, {})

  def differs(self, *expected):
    found = ends.differences(self.run, self.whole)
    self.assertLen(found, len(expected))
    for text, part in zip(found, expected):
      self.assertIn(part, text)

  def test_alike(self):
    (self.run / 'part/timing.jsonl').write_text('of another run')
    self.differs()

  def test_a_file_more_less_and_other(self):
    (self.run / 'part/metrics.jsonl').write_text('')
    (self.run / 'summary.json').rename(self.run / '.summary.json.partial')
    self.differs('summary.json is missing', '.summary.json.partial was left',
                 'part/metrics.jsonl differs')

  def test_another_state(self):
    shutil.rmtree(self.run / 'part/checkpoints')
    self.save(self.run, 3, 1.0 + 1e-7)
    self.differs("step_00000003 state['w'] differs")
    self.save(self.run, 4, 1.0)
    self.differs('the newest is step_00000004')

  def test_a_save_that_was_cut_off(self):
    (self.run / 'part/checkpoints/step_00000004.partial').mkdir()
    self.differs('step_00000004.partial was left')

  def test_no_checkpoints(self):
    shutil.rmtree(self.run / 'part/checkpoints')
    self.differs('checkpoints lie in')


@pytest.mark.slow
class SoakTest(absltest.TestCase):

  def soak(self, *flags, kills=8):
    said = []
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    killed.Soak(binaries.Binary('tests.soak.stand_in', flags), folder, kills,
                random.Random(0), said.append).run()
    return said

  def test_a_binary_that_goes_on(self):
    said = self.soak(kills=18)
    self.assertRegex(said[-1], '^18 of 18: ')
    self.assertTrue(any('refused in' in line for line in said), said)

  def test_a_binary_that_forgets(self):
    with self.assertRaisesRegex(killed.Lost, 'metrics.jsonl differs'):
      self.soak('--forgets')


if __name__ == '__main__':
  absltest.main()
