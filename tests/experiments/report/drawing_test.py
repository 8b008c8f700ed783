"""Axes, paths and text of figures."""

import html
import json
import math
import re

import numpy as np
from absl.testing import absltest, parameterized

from experiments.common import claims, plots
from experiments.report import (
  charts,
  drawing,
  markup,
  page,
  scales,
  shapes,
  verdicts,
)
from experiments.report.drawing import Figure, Line
from tests.experiments.report.folders import EVIL


def hover_of(drawn):
  text = re.search(r'data-hover="([^"]*)"', drawn)[1]
  return json.loads(html.unescape(text))


class ScalesTest(parameterized.TestCase):

  @parameterized.parameters(
    (0., 600., False, ['0', '200', '400', '600']),
    (0.03, 1.4, True, ['0.05', '0.1', '0.2', '0.5', '1']),
    (1., 1e6, True, ['1', '100', '10,000', '10⁶']),
    (0.971, 0.993, False, ['0.975', '0.98', '0.985', '0.99']),
    (4., 4.5, True, ['4', '4.1', '4.2', '4.3', '4.4', '4.5']))
  def test_ticks(self, low, high, is_log, texts):
    scale = scales.Scale(low, high, is_log)
    found = scale.ticks(5)
    self.assertEqual([text for _, text in found], texts)
    for value, _ in found:
      self.assertBetween(float(scale.at(value)), -1e-9, 1 + 1e-9)

  def test_places(self):
    scale = scales.Scale(1., 100., True)
    np.testing.assert_allclose(scale.at(np.array([1., 10., 100.])), [0, .5, 1])
    self.assertTrue(np.isnan(scale.at(-1.)))

  def test_around(self):
    scale = scales.around([np.array([1., np.inf, np.nan, 3.])], pad=0.5)
    self.assertEqual((scale.low, scale.high), (0, 4))
    self.assertIsNone(scales.around([np.array([-1.])], is_log=True))
    same = scales.around([np.array([2., 2.])])
    self.assertLess(same.low, same.high)


class DrawTest(absltest.TestCase):

  def draw(self, **changes):
    line = dict(label=EVIL, x=np.arange(4.), y=np.array([1., np.nan, 3., 2.]))
    return drawing.draw(Figure(EVIL, [Line(**line | changes)], EVIL))

  def test_names_are_text(self):
    drawn = self.draw()
    self.assertNotIn('<script', drawn)
    self.assertIn(html.escape(EVIL), drawn)
    self.assertEqual(hover_of(drawn)[0]['name'], EVIL)

  def test_unknown_values_are_gaps(self):
    path = re.search(r'class="line" d="([^"]*)"', self.draw())[1]
    self.assertEqual(path.count('M'), 2)
    self.assertEqual(path.count('L'), 1)
    self.assertLen(hover_of(self.draw())[0]['points'], 3)

  def test_hover_says_value_band_and_note(self):
    drawn = self.draw(low=np.zeros(4), high=np.full(4, math.inf),
                      notes=['', '', 'over 3 steps', ''])
    self.assertEqual([point[2:] for point in hover_of(drawn)[0]['points']], [
      ['0', '1 (0 to ∞)'], ['2', '3 (0 to ∞), over 3 steps'],
      ['3', '2 (0 to ∞)']])

  def test_an_open_band_goes_to_the_edge(self):
    line = Line('', np.arange(2.), np.ones(2), np.zeros(2),
                np.full(2, math.inf), color='red')
    band = shapes.band(line, scales.Scale(0, 1), scales.Scale(0, 2))
    self.assertIn(f'M0.0 {shapes.HEIGHT}.0L1000.0 {shapes.HEIGHT}.0'
                  'L1000.0 0.0L0.0 0.0Z', band)

  def test_a_single_point_is_seen(self):
    drawn = self.draw(y=np.array([np.nan, 1., np.nan, np.nan]))
    self.assertEqual(drawn.count('<circle'), 1)

  def test_nothing_known_is_nothing_drawn(self):
    self.assertIsNone(self.draw(y=np.full(4, np.nan)))
    self.assertIsNone(drawing.draw(Figure('', [])))

  def test_error_bars(self):
    drawn = self.draw(is_dotted=True, low=np.zeros(4), high=np.full(4, 4.))
    self.assertEqual(drawn.count('class="bar"'), 3)  # one is not known

  def test_what_is_said(self):
    self.assertIn('1 at first, 2 at last', self.draw())

  def test_long_lines_are_thinned(self):
    drawn = self.draw(x=np.arange(5000.), y=np.arange(5000.))
    self.assertLess(len(drawn), 30_000)


class ChartsTest(absltest.TestCase):

  def test_histogram_counts_all(self):
    values = np.geomspace(0.1, 100, 50)
    drawn = charts.histogram('norms', np.append(values, [np.nan, 0]), 'norm')
    counts = [int(point[3].split()[0])
              for point in hover_of(drawn)[0]['points']]
    self.assertEqual(sum(counts), 50)
    self.assertIsNone(charts.histogram('', np.array([1.]), ''))

  def test_matrix(self):
    drawn = charts.matrix('cosines', np.array([[1., -.5], [-.5, 1.]]),
                          'worker', '')
    self.assertEqual([point[2:] for point in hover_of(drawn)[0]['points']][1],
                     ['worker 1 and 2', '−0.5'])
    self.assertIsNone(charts.matrix('', np.full((2, 2), np.nan), '', ''))

  def test_rows(self):
    drawn = charts.rows('layers', {EVIL: [1., np.nan], 'b': [2., 30.]},
                        ['early', 'late'], 'examples', '')
    self.assertNotIn('<script', drawn)
    self.assertEqual(drawn.count('<circle'), 3)


class StyleTest(absltest.TestCase):

  def test_colors_are_those_of_the_house(self):
    style = (page._HERE / 'style.css').read_text().lower()
    light = dict(re.findall(r'--(\w+): (#\w{6})', style.split('@media')[0]))
    self.assertEqual([light[f'c{i}'] for i in range(len(plots.COLORS))],
                     [x.lower() for x in plots.COLORS])
    for verdict, color in plots.VERDICT_COLORS.items():
      self.assertEqual(light[verdict], color.lower())

  def test_verdicts_have_the_marks_of_the_house(self):
    self.assertEqual(verdicts.MARKS, claims.VERDICTS)

  def test_text_and_lines_have_contrast(self):
    style = (page._HERE / 'style.css').read_text()
    themes = [dict(re.findall(r'--(\w+): (#\w{6})', part))
              for part in style.split('@media')[:2]]
    for colors in themes:
      for name in ('ink', 'soft'):
        for behind in ('paper', 'card'):
          self.assertGreater(_contrast(colors[name], colors[behind]), 4.5)
    for i in range(9):  # of the light ones, the house has decided
      self.assertGreater(_contrast(themes[1][f'c{i}'], themes[1]['paper']), 3)


def _contrast(one, other):
  """Compute the contrast ratio of WCAG 2.1."""
  def light(color):
    x = np.array([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    x = np.where(x <= 0.03928, x / 12.92, ((x + 0.055) / 1.055)**2.4)
    return x @ [0.2126, 0.7152, 0.0722]
  low, high = sorted([light(one), light(other)])
  return (high + 0.05) / (low + 0.05)


class MarkupTest(absltest.TestCase):

  def test_attributes_are_escaped(self):
    made = markup.tag('a', href='"><script>')
    self.assertEqual(made, '<a href="&quot;&gt;&lt;script&gt;"></a>')

  def test_tables_scroll(self):
    made = markup.table(('<',), [('a', markup.tag('b', '>'))])
    self.assertIn('class="scroll"', made)
    self.assertIn('<td><b>&gt;</b></td>', made)


if __name__ == '__main__':
  absltest.main()
