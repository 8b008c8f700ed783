"""The imports of the experiments go one way: no circle, no paper in another."""

import ast
import pathlib

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / 'experiments'
FILES = sorted(FOLDER.rglob('*.py'))
PAPERS = ('gradient_diversity', 'critical_parameters', 'decentralized',
          'agreement_filtering', 'overhead', 'adascale', 'batch_size_control',
          'critical_batch', 'robustness')
LAYERS = (('holding', 'versions'), ('report',), ('data', 'models', 'cost'),
          ('engine',), ('common',), PAPERS)
RANK = {unit: i for i, layer in enumerate(LAYERS) for unit in layer}
# These of one layer use each other in this direction alone.
ALSO = {('cost', 'models'), ('models', 'data')}


def imported(path):
  """Yields the dotted names below `experiments` that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    yield from (name for name in names if name.startswith('experiments.'))


def module_of(dotted):
  """Finds the file that a dotted name lies in."""
  parts = dotted.split('.')
  while parts:
    base = ROOT.joinpath(*parts)
    for path in (base.with_suffix('.py'), base / '__init__.py'):
      if path.exists():
        return path
    parts.pop()
  return None


class ImportsTest(absltest.TestCase):

  def test_layers(self):
    for path in FILES:
      parts = path.relative_to(FOLDER).with_suffix('').parts
      if len(parts) < 2:
        continue
      own = parts[0]
      with self.subTest(str(path.relative_to(ROOT))):
        self.assertIn(own, RANK)
        used = {name.split('.')[1] for name in imported(path)} - {own}
        wrong = {unit for unit in used
                 if RANK.get(unit, 99) >= RANK[own] and (own, unit) not in ALSO}
        self.assertEmpty(wrong)

  def test_no_circles(self):
    graph = {path: {module_of(name) for name in imported(path)} - {path, None}
             for path in FILES}
    done, open_ = set(), []

    def visit(path):
      if path in open_:
        circle = [*open_[open_.index(path):], path]
        self.fail(' -> '.join(str(p.relative_to(ROOT)) for p in circle))
      if path in done:
        return
      open_.append(path)
      for other in sorted(graph.get(path, ())):
        # A package that re-exports what lies in it is no circle.
        if other.name != '__init__.py' or other.parent not in path.parents:
          visit(other)
      open_.pop()
      done.add(path)

    for path in FILES:
      visit(path)


if __name__ == '__main__':
  absltest.main()
