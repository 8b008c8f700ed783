"""The script of two processes runs, and its step contains what it says."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import absltest

from examples import two_processes
from experiments.cost import collectives

ROOT = pathlib.Path(__file__).parents[2]
INSIDE = '{{0,1,2,3},{4,5,6,7}}'
BETWEEN = '{{0,4},{1,5},{2,6},{3,7}}'
ALL = '{{0,1,2,3,4,5,6,7}}'


class TwoProcessesTest(absltest.TestCase):

  def test_the_step_contains_what_the_script_says(self):
    # The script is read with the defaults of jax.
    with jax.numpy_rank_promotion('allow'):
      run, (params, state), _ = two_processes.build()
      x, y = np.zeros((256, 16), 'f'), np.zeros(256, 'i')
      text = run.lower(params, state, x, y).compile().as_text()
    self.assertEqual(sum(x.size for x in jax.tree.leaves(params)), 1154)
    self.assertIn('D = 1,154', two_processes.__doc__)
    sizes = {}
    for line in text.splitlines():
      for found in collectives.collectives(line):
        groups = line.split('replica_groups=')[1].split('}}')[0] + '}}'
        key = found.name, groups
        sizes[key] = sizes.get(key, 0) + found.size
    padded = 1156  # the two biases need four slices
    self.assertEqual(sizes, {
      ('all-to-all', INSIDE): padded, ('all-gather', INSIDE): padded,
      ('all-reduce', INSIDE): 4 * 4 + 5,
      ('all-reduce', BETWEEN): padded // 4 + 1, ('all-reduce', ALL): 1})

  def test_at_most_sixty_lines(self):
    code = pathlib.Path(two_processes.__file__).read_text().split('"""', 2)[2]
    self.assertLessEqual(len([x for x in code.splitlines() if x.strip()]), 60)

  @pytest.mark.slow
  def test_it_starts_its_second_process_and_trains(self):
    done = subprocess.run(
      [sys.executable, '-m', 'examples.two_processes'], cwd=ROOT, text=True,
      capture_output=True, timeout=200, check=True,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)})
    self.assertRegex(done.stdout, r'(?m)^loss 0\.[01]\d$')


if __name__ == '__main__':
  absltest.main()
