"""docs/papers.md and README's table say what docs/results holds."""

import pathlib
import re
import tempfile

from absl.testing import absltest

from experiments.common import claims, results_page, tables
from experiments.common.claims import Claim
from experiments.common.intervals import Interval

STORY = {'name': 'x', 'title': 'X 2020', 'link': 'https://x.org',
         'command': 'make x', 'sentence': 'It holds.', 'setup': 'A network.',
         'pictures': {'plot': 'A plot'}, 'num_seeds': 3, 'roundings': 2}
CLAIM = Claim('a', 'a is above b', 'a less b', Interval(0.5, 0.2, 0.8),
              (0.0, float('inf')), paper=0.25, source='Fig. 1', unit='%',
              second=Interval(0.4, 0.1, 0.7), note='Note well.')


class ResultsPageTest(absltest.TestCase):

  def test_nothing_is_stale(self):
    for path, text in results_page.outputs().items():
      self.assertEqual(path.read_text(), text, f'{path}: run make results')

  def test_readme_says_which_bounds_the_page_has(self):
    _, found = results_page.stories()[0]
    bounds = [int(re.search(r'B_S is (\d+)', claim.note)[1])
              for claim in found if claim.key.startswith('waste_')]
    self.assertIn(f'it is {min(bounds)} to {max(bounds)}. This',
                  (results_page.ROOT / 'README.md').read_text())

  def test_figures_are_there(self):
    for story, _ in results_page.stories():
      for name in story['pictures']:
        path = f'docs/results/{story["name"]}_{name}.png'
        self.assertTrue((results_page.ROOT / path).exists(), path)

  def test_forest_plots_show_what_the_claims_say(self):
    for story, found in results_page.stories():
      name = f'docs/results/{story["name"]}_claims.svg'
      shown = (results_page.ROOT / name).read_text()
      for claim in found:
        self.assertIn(tables.measured(claim), shown,
                      f'{name}: run make results')

  def test_a_section_says_the_verdict_and_both_numbers(self):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'claims.json'
      claims.write(path, STORY, [CLAIM])
      text = results_page.section(*claims.read(path))
    self.assertIn('| ✓ | 1. a is above b | 25.0 % | 50.0 % [20.0, 80.0] | '
                  'above 0 |', text)
    self.assertIn('1. A less b. In the paper: Fig. 1. With the other rounding '
                  '40.0 % [10.0, 70.0]. Note well.', text)
    self.assertIn('![A plot](results/x_plot.png)', text)
    self.assertIn('3 seeds, each trained twice with different rounding '
                  '(`--roundings=2`)', text.replace('\n', ' '))


if __name__ == '__main__':
  absltest.main()
