"""The notebook runs from the first cell to the last, in a reduced mode."""

import contextlib
import io
import json
import pathlib
import re

import jax
import matplotlib
import numpy as np
from absl.testing import absltest

PATH = pathlib.Path(__file__).parents[1] / 'colab' / 'gradiv.ipynb'
CELLS = json.loads(PATH.read_text())['cells']
CODE = [''.join(cell['source']) for cell in CELLS
        if cell['cell_type'] == 'code']


class NotebookTest(absltest.TestCase):

  def test_is_short_and_stores_no_outputs(self):
    self.assertLessEqual(len(CELLS), 20)
    for cell in CELLS:
      self.assertEmpty(cell.get('outputs', []))
      self.assertIsNone(cell.get('execution_count'))
    self.assertLen([c for c in CODE if c.startswith(('%', '!'))], 1)

  def test_uses_public_names_alone(self):
    for code in CODE:
      self.assertIsNone(re.search(r'gradiv\.(\w+\.)*_|from gradiv', code))

  def test_runs_from_top_to_bottom_in_the_reduced_mode(self):
    matplotlib.use('Agg')
    names = {}
    # Readers have the defaults of jax.
    with contextlib.redirect_stdout(io.StringIO()) as out, (
        jax.numpy_rank_promotion('allow')):
      for code in CODE:
        if code.startswith('%pip'):
          continue
        code = code.replace('FAST = False', 'FAST = True')
        exec(compile(code, PATH.name, 'exec'), names)
    for word in ('by hand 0.6111', 'batch 128 is ',
                 '(the wrong label is at 0)', 'examples that agree:'):
      self.assertIn(word, out.getvalue())
    # Larger batches take more gradients, by about as much as predicted.
    lines = names['ax'].get_lines()
    for line in lines[:2]:
      x, y = map(np.asarray, line.get_data())
      self.assertTrue(np.all(np.diff(y) > 0))
      self.assertTrue(np.all(np.abs(np.log(y / (1 + x))) < np.log(3)))


if __name__ == '__main__':
  absltest.main()
