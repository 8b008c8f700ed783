"""The library stays light, and its imports go one way."""

import ast
import collections
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]
LIBRARY = ROOT / 'gradiv'
FILES = sorted(LIBRARY.rglob('*.py'))
ALLOWED = {'gradiv', 'jax', 'numpy', 'optax'} | set(sys.stdlib_module_names)
HEAVY = ('flax', 'absl', 'tensorflow', 'tensorflow_datasets', 'matplotlib',
         'sklearn', 'orbax', 'experiments')
# A unit may import from itself and from the units of the layers above it.
LAYERS = (
  ('_common', 'workers'),
  ('diversity', 'weightings', 'decentralized.topology', 'resizing'),
  ('aggregation', 'perturbations', 'per_example'),
  ('compression',),
  ('decentralized', 'scaling', 'staleness'),
  ('meshes',),
)
RANK = {unit: i for i, layer in enumerate(LAYERS) for unit in layer}
# Units of one layer that may import from each other.
TOGETHER = {'_common', 'workers'}


def imported(path):
  """Yields the dotted name of everything that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def unit_of(dotted):
  """Names the unit of `RANK` to which a name below `gradiv` belongs."""
  parts = dotted.split('.')[1:]
  if not parts:
    return None
  two = '.'.join(parts[:2])
  return two if two in RANK else parts[0]


class ImportsTest(absltest.TestCase):

  def test_the_library_needs_jax_numpy_and_optax_alone(self):
    for path in FILES:
      with self.subTest(str(path.relative_to(ROOT))):
        roots = {name.split('.')[0] for name in imported(path)}
        self.assertEmpty(roots - ALLOWED)

  def test_importing_the_library_loads_nothing_heavy(self):
    code = (
      'import sys, jax, optax; before = set(sys.modules); import gradiv;'
      f'print(sorted(set({HEAVY}) & (set(sys.modules) - before)))')
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True,
                         capture_output=True, text=True)
    self.assertEqual(out.stdout.strip(), '[]')

  def test_imports_go_one_way(self):
    for path in FILES:
      dotted = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
      own = unit_of(dotted.removesuffix('.__init__'))
      if own in (None, '__init__'):
        continue
      with self.subTest(str(path.relative_to(ROOT))):
        self.assertIn(own, RANK)
        used = {unit_of(name) for name in imported(path)
                if name.split('.')[0] == 'gradiv'} - {own}
        if own in TOGETHER:
          used -= TOGETHER
        wrong = {u for u in used if RANK.get(u, 99) >= RANK[own]}
        # A package may re-export the packages inside of it.
        wrong -= {u for u in wrong if u.startswith(own + '.')
                  and path.name == '__init__.py'}
        self.assertEmpty(wrong)

  def test_the_engine_is_used_by_per_example_alone(self):
    for path in FILES:
      if LIBRARY / 'per_example' not in path.parents:
        self.assertFalse(
          any('per_example._' in name for name in imported(path)), path)

  def test_no_module_name_stands_twice(self):
    names = collections.Counter(
      p.stem.strip('_') for p in FILES if p.name != '__init__.py')
    names.update(p.parent.name.strip('_') for p in FILES
                 if p.name == '__init__.py')
    self.assertEmpty([name for name, n in names.items() if n > 1])


if __name__ == '__main__':
  absltest.main()
