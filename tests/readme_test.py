"""What README and the docs show runs, and what they name exists."""

import configparser
import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
from absl.testing import absltest

import gradiv

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = (*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'))
MODULES = (gradiv, gradiv.aggregation, gradiv.compression,
           gradiv.decentralized, gradiv.diversity, gradiv.per_example,
           gradiv.perturbations, gradiv.scaling, gradiv.staleness,
           gradiv.weightings)
# Parts of weightings, for a weighting of one's own.
BUILDING_BLOCKS = {
  'stateless', 'uniform', 'with_extra', 'sq_distances', 'krum_scores',
  'allowed_distance', 'cosine_distance', 'joining_weights'}


def blocks(text, language):
  """Returns the code blocks of a page that are in one language."""
  return re.findall(rf'```{language}\n(.*?)```', text, re.S)


def run(code, names=None):
  """Runs a program; returns what it prints and the names that it leaves."""
  names = {} if names is None else names
  # Readers have the defaults of jax.
  with contextlib.redirect_stdout(io.StringIO()) as out, (
      jax.numpy_rank_promotion('allow')):
    exec(compile(code, 'a page', 'exec'), names)
  return out.getvalue(), names


class ReadmeTest(absltest.TestCase):

  def test_the_diff_applies_to_a_loop_that_runs_and_prints_as_it_says(self):
    block, = blocks(README, 'diff')
    lines = block.splitlines()
    self.assertLessEqual(sum(line[:1] == '+' for line in lines), 10)
    plain = '\n'.join(line[1:] for line in lines if line[:1] != '+')
    changed = '\n'.join(line[1:] for line in lines if line[:1] != '-')
    # The plain loop runs as well, for a few steps.
    run(plain.replace('300', '2'))
    printed, _ = run(changed)
    ends = lambda text: map(int, re.findall(r'\((\d+) to (\d+) over', text)[0])
    for seen, promised in zip(ends(printed), ends(README), strict=True):
      # Rounding differs between processors, and grows along 300 steps.
      self.assertBetween(seen, 0.8 * promised, 1.25 * promised)

  def test_the_recipes_run_one_after_the_other(self):
    names, steps = {}, {}
    for block in blocks(README, 'python'):
      run(block, names)
      steps[names['tx']] = names['step']
    # A compiled step keeps its chain: each that is run has a step of its own.
    mean, agreement, _ = steps.values()
    self.assertIsNot(mean, agreement)
    self.assertEqual(names['clipped'].shape, (5,))
    self.assertGreater(float(abs(names['clipped']).sum()), 0)
    # The last chain, with a weighting of one's own, is one that works.
    step = gradiv.map_workers(
      lambda p, s, b: names['tx'].update(b.mean(0), s, p), 'workers',
      in_axes=(None, None, 0), out_axes=None)
    step(names['params'], names['tx'].init(names['params']), names['batch'])

  def test_names_commands_and_links_exist(self):
    for page in PAGES:
      text = page.read_text()
      if page.name != 'CHANGELOG.md':  # which names what is gone
        for name in re.findall(r'\bgradiv\.([a-z_]+(?:\.[a-z_]+)*)', text):
          if name != 'ipynb':
            self.resolve(name, page)
      for target in re.findall(r'`make ([a-z-]+)', text):
        self.assertIn(f'\n{target}:', (ROOT / 'Makefile').read_text())
      for link in re.findall(r'\]\(((?!http)[^)#]+)\)', text):
        self.assertTrue((page.parent / link).exists(), (page, link))

  def test_the_catalog_lists_every_public_function_and_no_other(self):
    catalog = (ROOT / 'docs' / 'catalog.md').read_text()
    listed = {name.split('.')[-1] for name in re.findall(
      r'`(?:\w+\.)?(\w+)`', catalog)}
    public = {name for module in MODULES for name, value
              in vars(module).items() if callable(value) and name.islower()}
    self.assertEmpty(public - listed - BUILDING_BLOCKS)
    others = {'vmap', 'pmap', 'shard_map', 'num_fragments', 'history', 'gradiv',
              'Moments', 'Layout', 'weightings', 'topology', 'staleness',
              'scaling', 'controllers', 'decentralized', 'value_and_grad',
              'ring', 'torus', 'hypercube', 'exponential'}
    self.assertEmpty(listed - public - others)

  def test_lines_of_prose_are_at_most_100_characters(self):
    for page in PAGES:
      if page.name == 'LICENSE':
        continue
      for i, line in enumerate(page.read_text().splitlines(), 1):
        if 'http' not in line and not line.startswith(('|', '![')):
          self.assertLessEqual(len(line), 100, f'{page.name}:{i}')

  def resolve(self, name, page):
    value = gradiv
    for part in name.split('.'):
      self.assertTrue(hasattr(value, part), f'gradiv.{name} in {page.name}')
      value = getattr(value, part)


class PackagingTest(absltest.TestCase):

  def test_the_library_alone_asks_for_three_packages(self):
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = config['options']['install_requires'].split('\n')
    names = {re.match(r'[a-z]+', line)[0] for line in lines
             if line and not line.startswith('#')}
    self.assertEqual(names, {'jax', 'optax', 'numpy'})
    found = config['options.packages.find']['include']
    self.assertEqual(found, 'gradiv, gradiv.*')

  def test_beside_a_clone_its_folder_does_not_hide_the_package(self):
    """An editable installation is a path, which is searched for a package."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    self.assertEqual(config['editable_wheel']['mode'], 'compat')
    with tempfile.TemporaryDirectory() as folder:
      (pathlib.Path(folder) / 'gradiv').mkdir()  # as a clone beside the script
      script = pathlib.Path(folder) / 'train.py'
      script.write_text('import importlib.util as x\n'
                        'print(x.find_spec("gradiv").origin)')
      done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True,
        check=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
    self.assertEqual(done.stdout.strip(), str(ROOT / 'gradiv/__init__.py'))

  def test_the_package_is_typed_and_has_a_version(self):
    self.assertTrue((ROOT / 'gradiv' / 'py.typed').exists())
    self.assertRegex(gradiv.__version__, r'^\d+\.\d+\.\d+$')
    citation = (ROOT / 'CITATION.cff').read_text()
    self.assertIn(f'version: {gradiv.__version__}', citation)


if __name__ == '__main__':
  absltest.main()
