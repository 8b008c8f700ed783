"""The site builds without a warning, and names everything that is public."""

import ast
import html.parser
import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
import types
import unittest
from urllib import parse

import pytest
from absl.testing import absltest

import gradiv

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
NEEDED = ('sphinx', 'myst_parser', 'furo', 'sphinx_external_toc')
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def public():
  """Yields what the packages export, by name: `from x import y as y`."""
  for path in sorted((ROOT / 'gradiv').rglob('__init__.py')):
    package = '.'.join(path.parent.relative_to(ROOT).parts)
    if '._' in package:
      continue
    module = importlib.import_module(package)
    for node in ast.walk(ast.parse(path.read_text())):
      for alias in getattr(node, 'names', ()):
        if alias.asname is None:
          continue
        value = getattr(module, alias.asname)
        if isinstance(value, types.ModuleType):
          yield from defined_in(value)
        else:
          yield f'{package}.{alias.asname}', value


def defined_in(module):
  """Yields the functions and classes of a module that is no package."""
  for name, value in vars(module).items():
    if getattr(value, '__module__', None) == module.__name__ and (
        not name.startswith('_') and not hasattr(module, '__path__')):
      yield f'{module.__name__}.{name}', value


def documented():
  """Returns the names that have an entry in the reference."""
  text = '\n'.join(path.read_text() for path in (DOCS / 'api').glob('*.rst'))
  return re.findall(r'^\.\. (?:auto\w+|py:data):: (\S+)', text, re.M)


def resolve(dotted):
  value = gradiv
  for part in dotted.split('.')[1:]:
    value = getattr(value, part)
  return value


class Page(html.parser.HTMLParser):
  """Collects where a page links to, and the places that it has."""

  def __init__(self, path):
    super().__init__()
    self.links, self.places = set(), set()
    self.feed(path.read_text())

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      if name in ('href', 'src'):
        self.links.add(value)
      if name in ('id', 'name'):
        self.places.add(value)


class SiteTest(absltest.TestCase):

  def test_every_public_name_is_in_the_reference_once(self):
    names = documented()
    self.assertLen(set(names), len(names))
    entries = {id(resolve(name)) for name in names}
    found = dict(public())
    self.assertGreater(len(found), 200)
    self.assertEmpty([name for name, value in found.items()
                      if id(value) not in entries])
    self.assertEmpty(entries - set(map(id, found.values())))

  def test_every_page_is_in_the_table_of_contents(self):
    listed = re.findall(r'file: (\S+)', (DOCS / '_toc.yml').read_text())
    pages = [path.relative_to(ROOT).with_suffix('').as_posix()
             for path in DOCS.rglob('*') if path.suffix in ('.md', '.rst')]
    self.assertEmpty(set(pages) - set(listed))

  @pytest.mark.slow
  @unittest.skipIf(MISSING, f'not installed: {MISSING}; see the extra docs')
  def test_the_site_builds_without_warnings_and_its_links_resolve(self):
    with tempfile.TemporaryDirectory() as folder:
      site = pathlib.Path(folder)
      built = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-c',
         'docs', '-d', site / 'doctrees', '.', site / 'html'], cwd=ROOT,
        capture_output=True, text=True)
      self.assertEqual(built.returncode, 0, built.stderr)
      self.check_links(site / 'html')

  def check_links(self, folder):
    pages = {path: Page(path) for path in folder.rglob('*.html')}
    self.assertGreater(len(pages), 30)
    num_links = 0
    for path, page in pages.items():
      for link in page.links:
        url = parse.urlsplit(link)
        if url.scheme or url.netloc:
          continue
        num_links += 1
        target = path if not url.path else (
          path.parent / parse.unquote(url.path)).resolve()
        self.assertTrue(target.exists(), f'{path}: {link}')
        if url.fragment and target in pages:
          place = parse.unquote(url.fragment)
          self.assertIn(place, pages[target].places | {''}, f'{path}: {link}')
    self.assertGreater(num_links, 1000)


if __name__ == '__main__':
  absltest.main()
