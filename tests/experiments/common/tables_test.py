"""Tables on a terminal and as Markdown."""

import math

from absl.testing import absltest, parameterized

from experiments.common import tables
from experiments.common.claims import Claim
from experiments.common.intervals import Interval
from experiments.common.tables import Table

TABLE = Table('Steps', ('arm', 'n'), [('mean', '7'), ('a|b, ‖x̂‖', '1,234')])


class TableTest(parameterized.TestCase):

  def test_text(self):
    lines = TABLE.text().split('\n')
    self.assertEqual(lines[:2], ['Steps', ''])
    width = len('a|b, ‖x‖') + 2 + len('1,234')
    self.assertEqual(lines[3], '─' * 8 + '  ' + '─' * 5)
    for line in (lines[2], lines[4]):  # numbers are aligned right
      self.assertLen(line, width)
    self.assertLen(lines[5], width + 1)  # the accent takes no room

  def test_markdown(self):
    self.assertEqual(TABLE.markdown().split('\n'), [
      '| arm | n |', '| --- | ---: |', '| mean | 7 |',
      '| a\\|b, ‖x̂‖ | 1,234 |'])

  @parameterized.parameters(
    (0., '', '0'), (-0.125, '', '−0.125'), (99.96, '', '100'),
    (12345., '', '12,345'), (1.234e-5, '', '1.23e-05'), (0.256, '%', '25.6 %'),
    (-0.05, '%', '−5.0 %'), (2., 'nats', '2 nats'), (None, '%', '–'),
    (math.nan, '', '–'), (math.inf, '', '∞'), (-math.inf, 'x', '−∞'))
  def test_numbers(self, x, unit, text):
    self.assertEqual(tables.number(x, unit), text)

  @parameterized.parameters(
    ((0., math.inf), 'above 0'), ((0.5, math.inf), '≥ 0.5'),
    ((-math.inf, 2.), '≤ 2'), ((0.5, 2.), '0.5 to 2'))
  def test_what_is_allowed(self, allowed, text):
    claim = Claim('k', 't', 'h', Interval(1, 1, 1), allowed)
    self.assertEqual(tables.allowed(claim), text)

  def test_of_claims(self):
    made = lambda key, low: Claim(
      key, f'claim {key}', 'how', Interval(0.5, low, 0.9), (0., math.inf),
      paper=0.25, unit='%')
    text = tables.of_claims([made('a', 0.1), made('b', -0.1)], 'Paper').text()
    self.assertIn('Paper: 1 holds, 1 open', text)
    self.assertRegex(
      text, r'✓  claim a +50\.0 % \[10\.0, 90\.0\] +above 0 +25\.0 %')
    self.assertRegex(text, r'◐  claim b +50\.0 % \[−10\.0, 90\.0\]')


if __name__ == '__main__':
  absltest.main()
