"""The code on the pages of docs/ runs, and prints what the pages say."""

import contextlib
import io
import pathlib
import re

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv

ROOT = pathlib.Path(__file__).parent.parent
# A block of Python, or a diff of a whole program, and what it prints where
# that follows at once.
BLOCKS = re.compile(
  r'```(?:python\n(.*?)```(?:\n```text\n(.*?)```)?'
  r'|diff\n([^`]*?)```\n```text\n(.*?)```)', re.S)
# Those that take more than three seconds.
SLOW = {'start', 'batch_size', 'aggregation_rules', 'example_recipes',
        'upstream', 'training', 'per_example', 'mechanisms', 'robustness'}


def page(name):
  return (ROOT / 'docs' / f'{name}.md').read_text()


def pages(is_slow):
  found = [path.stem for path in sorted((ROOT / 'docs').glob('*.md'))
           if BLOCKS.search(path.read_text())]
  return [(name, name) for name in found if (name in SLOW) == is_slow]


def rows(text, head):
  """Returns the cells of the table whose head begins as given."""
  lines = text[text.index(head):].split('\n\n')[0].splitlines()
  return [[cell.strip() for cell in line.strip('|').split('|')]
          for line in lines[2:]]


def code_of(cell):
  """Returns the first piece of code in a cell."""
  return re.match('`(.*?)`', cell)[1]


class DocsTest(parameterized.TestCase):

  @parameterized.named_parameters(pages(is_slow=False))
  def test_the_code_of_a_page_runs_as_one_program(self, name):
    self.run_page(name)

  @parameterized.named_parameters(pages(is_slow=True))
  @pytest.mark.slow
  def test_the_code_of_a_slow_page_runs_as_one_program(self, name):
    self.run_page(name)

  def run_page(self, name):
    names = {}
    for code, expected, diff, expected_of_diff in BLOCKS.findall(page(name)):
      if diff:
        lines = diff.splitlines()
        before, code = ('\n'.join(line[1:] for line in lines
                                  if line[:1] != left_out)
                        for left_out in '+-')
        run(before, {})
        expected, scope = expected_of_diff, {}
      else:
        scope = names
      with self.subTest(code=code):
        # Long lines are broken on a page.
        self.assertEqual(run(code, scope).split(), expected.split())
    return names

  def test_the_formulas_of_one_statistic_are_what_gradiv_computes(self):
    table = rows(page('one_statistic'), '| name, and what')
    self.assertLen(table, 13)
    rng = np.random.default_rng(0)
    for G, S, B, b, s, θ in rng.uniform(1, 9, (3, 6)):
      ρ, e = S / G, gradiv.Estimate(G, S)
      # What B gradients with a mean of the expected length have.
      batch = gradiv.Moments(B, 1., G + S / B, (1 - 1 / B) * S)
      names = dict(G=G, S=S, B=B, b=b, s=s, θ=θ, ρ=ρ, e=e, batch=batch,
                   noise=gradiv.scaling.NoiseModel(ρ), gradiv=gradiv)
      for name, formula, call in table:
        with self.subTest(name):
          np.testing.assert_allclose(
            eval(code_of(call), names), eval(code_of(formula), names),
            rtol=1e-5)

  @pytest.mark.slow
  def test_what_replaces_other_libraries_runs(self):
    names = self.run_page('coming_from')
    cells = [line.split(' | ')[1]
             for line in page('coming_from').splitlines()
             if line.startswith('| ') and '| I write |' not in line]
    self.assertGreater(len(cells), 20)
    for cell in cells:
      with self.subTest(cell):
        run(code_of(cell), names)

  def test_the_table_of_rules_repeats_what_other_pages_say(self):
    text = page('aggregation_rules')
    bears = {rule: cells for rule, *cells in
             rows(page('robustness'), '| rule | none')}
    columns = page('robustness').split('| rule | ')[1].split('\n')[0]
    columns = [name.strip() for name in columns.strip('|').split('|')]
    shown = rows(text, '| use it when | rule')
    self.assertGreater(len(shown), 10)
    names = {'gradiv': gradiv, 'weightings': gradiv.weightings, 'f': 1,
             'length': 1.}
    for _, rule, code, *values in shown:
      self.assertTrue(callable(eval(code_of(code), names)) or hasattr(
        eval(code_of(code), names), 'update'), rule)
      for column, value in zip(('× 10⁶', '× −1', 'NaN'), values, strict=True):
        self.assertEqual(value, bears[rule][columns.index(column)], rule)

    hosts, torus = ({name: cells for name, *cells in rows(
      page('at_scale'), f'| {network}')} for network in ('H100', 'TPU'))
    for kind, _, *values in rows(text, '| kind | sends'):
      # On one host there is nothing to average before the rule.
      self.assertEqual(values, [hosts[kind][0] or '1.00', hosts[kind][2],
                                torus[kind][2]], kind)


def run(code, names):
  """Runs a program; returns what it prints."""
  # The pages are read with the defaults of jax.
  with jax.numpy_rank_promotion('allow'), (
      contextlib.redirect_stdout(io.StringIO())) as out:
    exec(compile(code, 'a page', 'exec'), names)
  return out.getvalue()


if __name__ == '__main__':
  absltest.main()
