"""The scripts of examples/ run on eight devices, and stay short."""

import pathlib
import re
import subprocess
import sys

import jax
import pytest
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parent.parent
# Name, and a loss that the script gets below by training.
SCRIPTS = (('explicit_mesh', 0.4), ('fsdp', 1.0), ('nnx_on_mesh', 0.65))


class ExamplesTest(parameterized.TestCase):

  def test_the_first_trains_on_eight_devices(self):
    self.train(*SCRIPTS[0])

  @parameterized.parameters(*SCRIPTS[1:])
  @pytest.mark.slow
  def test_trains_on_eight_devices(self, name, reached):
    self.train(name, reached)

  def train(self, name, reached):
    if name == 'explicit_mesh' and jax.__version_info__[:2] < (0, 10):
      self.skipTest('jax has no unreduced gradients')
    code = ('import jax, runpy; jax.config.update("jax_num_cpu_devices", 8);'
            f'runpy.run_module("examples.{name}", run_name="__main__")')
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    self.assertEqual(done.returncode, 0, done.stderr)
    loss = float(re.match(r'loss ([0-9.]+)', done.stdout)[1])
    self.assertLess(loss, reached)

  @parameterized.parameters(*SCRIPTS)
  def test_is_at_most_sixty_lines_of_code(self, name, reached):
    del reached
    text = (ROOT / 'examples' / f'{name}.py').read_text()
    code = text.split('"""', 2)[2]
    self.assertLessEqual(len([x for x in code.splitlines() if x.strip()]), 60)


if __name__ == '__main__':
  absltest.main()
