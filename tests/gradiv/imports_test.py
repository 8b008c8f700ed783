"""The library stays light: what it imports, and what it may."""

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / 'gradiv').rglob('*.py'))
ALLOWED = {'gradiv', 'jax', 'numpy', 'optax'} | set(sys.stdlib_module_names)
HEAVY = ('flax', 'absl', 'tensorflow', 'tensorflow_datasets', 'matplotlib',
         'sklearn', 'orbax', 'experiments')


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module


class ImportsTest(parameterized.TestCase):

  @parameterized.named_parameters(
    (str(p.relative_to(ROOT)), p) for p in FILES)
  def test_only_what_setup_cfg_asks_for(self, path):
    self.assertEmpty({name.split('.')[0] for name in imported(path)} - ALLOWED)

  def test_importing_the_library_loads_nothing_heavy(self):
    code = (
      'import sys, jax, optax; before = set(sys.modules); import gradiv;'
      f'print(sorted(set({HEAVY}) & (set(sys.modules) - before)))')
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True,
                         capture_output=True, text=True)
    self.assertEqual(out.stdout.strip(), '[]')

  def test_imports_go_one_way(self):
    """From checks to scaling; none imports one that comes later."""
    order = ('checks', 'compat', 'backends', 'axes', 'moments', 'metrics',
             'confidence', 'tracking', 'wire', 'slices', 'weightings', 'gram',
             'aggregation', 'agreement', 'draws', 'dropconnect', 'langevin',
             'quantization', 'topology', 'gossip', 'staleness', 'scaling',
             'examples')
    named = {p.relative_to(ROOT / 'gradiv').parts[0].removesuffix('.py')
             for p in FILES}
    self.assertEqual(named, {*order, '__init__'})
    for path in FILES:
      name = path.relative_to(ROOT / 'gradiv').parts[0].removesuffix('.py')
      if name == '__init__':
        continue
      used = set()
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
          if node.module == 'gradiv':
            used |= {alias.name for alias in node.names}
          elif node.module.startswith('gradiv.'):
            used.add(node.module.split('.')[1])
      self.assertEmpty(
        (used - {name}) & set(order[order.index(name):]), path)


if __name__ == '__main__':
  absltest.main()
