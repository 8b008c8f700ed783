"""The code on the pages of docs/ runs, and prints what the pages say."""

import contextlib
import io
import pathlib
import re

import jax
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parent.parent
# A block of Python and, where it follows at once, what it prints.
BLOCKS = re.compile(r'```python\n(.*?)```(?:\n```text\n(.*?)```)?', re.S)
# Other pages consist of tables, and have longer lines.
PROSE = [ROOT / 'docs' / name for name in (
  'per_example.md', 'training.md', 'your_loop.md')]


def pages():
  found = [path for path in sorted((ROOT / 'docs').glob('*.md'))
           if BLOCKS.search(path.read_text())]
  return [(path.stem, path) for path in found]


class DocsTest(parameterized.TestCase):

  @parameterized.named_parameters(pages())
  def test_the_code_of_a_page_runs_as_one_program(self, path):
    names = {}
    # The pages are read with the defaults of jax.
    with jax.numpy_rank_promotion('allow'):
      for code, expected in BLOCKS.findall(path.read_text()):
        with contextlib.redirect_stdout(io.StringIO()) as out:
          exec(compile(code, path.name, 'exec'), names)
        with self.subTest(code=code):
          self.assertEqual(out.getvalue(), expected)

  def test_lines_of_prose_end_at_100_characters(self):
    for path in PROSE:
      long = [line for line in path.read_text().splitlines()
              if len(line) > 100 and not line.startswith('|')]
      self.assertEmpty(long)


if __name__ == '__main__':
  absltest.main()
