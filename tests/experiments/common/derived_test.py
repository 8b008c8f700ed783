"""What is derived from records: kept to the bit, and bound to its inputs."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
import xarray as xr
from absl.testing import absltest

from experiments import versions
from experiments.common.computed import Computed
from experiments.common.derived import Derived
from experiments.engine import records, signals

CALLS = []


def halves(x):
  """Return what the tests derive, and count the calls."""
  CALLS.append(x)
  return xr.Dataset(
    {'half': (('a', 'b'), np.float32([[x / 2, np.nan]])),
     'count': ('a', [7]), 'said': ('b', ['é', 'two words'])},
    {'a': [1.5], 'b': ['x', 'y'], 'also': ('b', [0., 1.])})


class DerivedTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    CALLS.clear()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))
    self.input = Computed('input', lambda stop: 1)
    self.input.run(self.folder, signals.Stop())

  def made(self, x=3., **options):
    return Derived('sub/d', f'{__name__}:halves', (x,), [self.input], **options)

  def test_what_is_read_is_what_was_computed(self):
    self.assertIn('sub/d.npz is missing', self.made().missing(self.folder))
    self.made().run(self.folder)
    found, wanted = self.made().read(self.folder), halves(3.)
    xr.testing.assert_identical(found, wanted)
    for name in wanted.variables:
      self.assertEqual(found[name].dtype, wanted[name].dtype)
    self.assertEqual(self.made().missing(self.folder), '')
    self.made().run(self.folder)
    self.assertLen(CALLS, 2)

  def test_other_records_flags_or_code_make_it_missing(self):
    self.made().run(self.folder)
    text = 'd.npz is of other data'
    self.assertIn(text, self.made(defined_by={'a': 1}).missing(self.folder))
    self.assertIn(text, self.made(code=['Makefile']).missing(self.folder))
    with mock.patch.object(versions, 'sources', lambda *places: 'changed'):
      self.assertIn(text, self.made().missing(self.folder))
    records.write_whole(self.folder / 'input.json', {
      'defined_by': {}, 'result': 2})
    self.assertIn(text, self.made().missing(self.folder))
    self.made(5.).run(self.folder)
    self.assertEqual(CALLS, [3., 5.])
    self.assertEqual(self.made().missing(self.folder), '')


class SourcesTest(absltest.TestCase):

  def test_each_place_has_a_hash_of_its_own(self):
    one, two = (versions.sources(x) for x in ('gradiv/scaling', 'experiments'))
    self.assertNotEqual(one, two)
    self.assertNotEqual(versions.sources(), two)
    with self.assertRaisesRegex(FileNotFoundError, 'nowhere holds no code'):
      versions.sources('nowhere')


if __name__ == '__main__':
  absltest.main()
