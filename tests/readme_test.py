"""The README and the packaging say what is so."""

import configparser
import contextlib
import io
import pathlib
import re

from absl.testing import absltest

import gradiv

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


class ReadmeTest(absltest.TestCase):

  def test_the_example_runs(self):
    block, = re.findall(r'```python\n(.*?)```', README, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as out:
      exec(compile(block, 'README.md', 'exec'), {})
    bound = float(out.getvalue().split()[0])
    self.assertGreater(bound, 1)

  def test_names_and_files_exist(self):
    for name in re.findall(r'`(?:gradiv\.)?([a-z_]+)\(', README):
      if name not in ('shard_map', 'make'):
        self.assertTrue(hasattr(gradiv, name), name)
    targets = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'make ([a-z-]+)', README):
      self.assertIn(f'\n{target}:', targets)
    for path in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')):
      for link in re.findall(r'\]\(((?!http)[^)]+)\)', path.read_text()):
        self.assertTrue((path.parent / link).exists(), link)

  def test_short(self):
    self.assertLessEqual(len(README.splitlines()), 120)


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


if __name__ == '__main__':
  absltest.main()
