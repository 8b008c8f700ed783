"""One verdict rule, and claims that survive a file."""

import math
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from experiments.common import claims
from experiments.common.claims import Claim
from experiments.common.intervals import UNKNOWN, Interval

INF = math.inf


def claim(*measured, allowed=(0., INF), key='a', **options):
  return Claim(key, 'text', 'how', Interval(*measured), allowed, **options)


class VerdictTest(parameterized.TestCase):

  @parameterized.parameters(
    ((0.5, 0.1, 0.9), (0., INF), 'holds'),
    ((0.5, 0.1, 0.9), (0.1, 0.9), 'holds'),  # the ends are allowed
    ((0.5, 0.0, 0.9), (0., INF), 'open'),  # but 0 is not above 0
    ((-0.5, -0.9, 0.0), (0., INF), 'fails'),
    ((0.5, -0.1, 0.9), (0., INF), 'open'),
    ((-0.5, -0.9, -0.1), (0., INF), 'fails'),
    ((1.0, 0.8, 1.2), (0.5, 1.1), 'open'),  # on either side
    ((2.0, 1.8, 2.2), (0.5, 1.1), 'fails'),
    ((1.0, 0.9, 1.1), (0.5, 1.1), 'holds'),
    ((1.0, 0.0, 2.0), (0.5, 1.1), 'open'),  # wider than what is allowed
    (UNKNOWN, (0., INF), 'unknown'),
    ((0.5, math.nan, math.nan), (0., INF), 'unknown'),
    ((INF, 0., INF), (0., INF), 'unknown'))
  def test_the_whole_interval_decides(self, measured, allowed, verdict):
    self.assertEqual(claim(*measured, allowed=allowed).verdict, verdict)

  @parameterized.parameters(
    ((0.5, 0.2, 0.8), 'holds'), ((0.5, -0.2, 0.8), 'open'),
    ((-0.5, -0.8, -0.2), 'open'), (UNKNOWN, 'open'))
  def test_two_roundings_must_agree(self, second, verdict):
    one = claim(0.5, 0.1, 0.9)
    joined, = claims.joined([one], [claim(*second)])
    self.assertEqual(joined.verdict, verdict)
    self.assertEqual(joined.measured, one.measured)


class FileTest(absltest.TestCase):

  def test_what_is_written_is_read(self):
    every = [
      claim(0.5, 0.1, 0.9, allowed=(-INF, 1.), paper=0.4, source='Fig. 1',
            runs=3, unit='%', note='why', second=Interval(0.4, 0.1, 0.8)),
      claim(*UNKNOWN, key='b')]
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, 'claims.json')
      claims.write(path, {'title': 'T'}, every)
      self.assertNotIn('NaN', path.read_text())
      self.assertNotIn('Infinity', path.read_text())
      story, found = claims.read(path)
    self.assertEqual(story, {'title': 'T'})
    self.assertEqual(found[0], every[0])
    self.assertEqual([x.verdict for x in found], ['holds', 'unknown'])

  def test_keys_are_unique(self):
    with tempfile.TemporaryDirectory() as folder:
      with self.assertRaisesRegex(ValueError, 'unique'):
        claims.write(pathlib.Path(folder, 'claims.json'), {},
                     [claim(1, 1, 1), claim(2, 2, 2)])


if __name__ == '__main__':
  absltest.main()
