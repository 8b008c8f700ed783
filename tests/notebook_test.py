"""The notebook runs from the first cell to the last, in a reduced mode."""

import ast
import contextlib
import importlib
import io
import json
import os
import pathlib
import pkgutil
import re
from unittest import mock

import jax
import matplotlib
import numpy as np
import pytest
from absl.testing import absltest

PATH = pathlib.Path(__file__).parents[1] / 'colab' / 'gradiv.ipynb'
CELLS = json.loads(PATH.read_text())['cells']
CODE = [''.join(cell['source']) for cell in CELLS
        if cell['cell_type'] == 'code']


class NotebookTest(absltest.TestCase):

  def test_is_short_and_stores_no_outputs(self):
    self.assertLessEqual(len(CELLS), 25)
    for cell in CELLS:
      self.assertEmpty(cell.get('outputs', []))
      self.assertIsNone(cell.get('execution_count'))
    self.assertLen([c for c in CODE if c.startswith(('%', '!'))], 1)

  def test_uses_public_names_alone(self):
    for code in CODE:
      self.assertIsNone(re.search(r'gradiv\.(\w+\.)*_|from gradiv', code))

  def test_every_name_of_the_library_exists(self):
    programs = [code for code in CODE if not code.startswith('%')]
    for node in ast.walk(ast.parse('\n'.join(programs))):
      if isinstance(node, ast.ImportFrom):
        module = importlib.import_module(node.module)
        for name in node.names:
          self.assertTrue(hasattr(module, name.name), name.name)
    names = re.findall(r'\bgradiv(?:\.[a-z]\w*)+', '\n'.join(programs))
    self.assertNotEmpty(names)
    for name in names:
      pkgutil.resolve_name(name)

  @pytest.mark.slow
  def test_runs_from_top_to_bottom_in_the_reduced_mode(self):
    matplotlib.use('Agg')
    names = {}
    # Readers have the defaults of jax; the notebook sets variables for it.
    with contextlib.redirect_stdout(io.StringIO()) as out, (
        jax.numpy_rank_promotion('allow')), mock.patch.dict(os.environ):
      for code in CODE:
        if code.startswith('%pip'):
          continue
        code = code.replace('FAST = False', 'FAST = True')
        exec(compile(code, PATH.name, 'exec'), names)
    for word in ('by hand 0.6111', 'batch 128 is ',
                 '(the wrong label is at 0)', 'examples that agree:'):
      self.assertIn(word, out.getvalue())
    self.check_collapse(names['ax'])
    self.check_agreement(out.getvalue())
    self.check_mesh(out.getvalue())

  def check_collapse(self, ax):
    """Larger batches take more gradients, by about as much as predicted."""
    for line in ax.get_lines()[:2]:
      x, y = map(np.asarray, line.get_data())
      self.assertTrue(np.all(np.diff(y) > 0))
      self.assertTrue(np.all(np.abs(np.log(y / (1 + x))) < np.log(3)))

  def check_agreement(self, out):
    """The control makes as many updates, from as many gradients."""
    rows = re.findall(
      r'(mean|agreement|blind) +accuracy ([\d.]+)%, (\d+) updates from (\d+) '
      r'gradients, mean cosine between workers (0\.\d+)', out)
    self.assertEqual([row[0] for row in rows], ['mean', 'agreement', 'blind'])
    mean, agreement, blind = (tuple(map(float, row[1:])) for row in rows)
    self.assertEqual(mean[1:3], (20, 80))
    self.assertEqual(agreement[1:3], blind[1:3])
    self.assertLess(agreement[2], 80)
    for accuracy, *_ in (mean, agreement, blind):  # a guess is right in 10 %
      self.assertGreater(accuracy, 50)
    self.assertRegex(out, r'gain over the mean +\[.*\d')
    self.assertRegex(out, r'gain over the control +\[.*\d')

  def check_mesh(self, out):
    """Eight devices make the update that one makes."""
    found = re.search(
      r'8 cpu devices; the update differs from that of vmap by (\S+) of its '
      r'length\nequal up to rounding: True', out)
    self.assertIsNotNone(found)
    self.assertLess(float(found[1]), 1e-5)


if __name__ == '__main__':
  absltest.main()
