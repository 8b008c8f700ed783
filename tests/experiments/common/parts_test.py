"""Parts: lanes by their coordinates, blocks, and labeled results."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.common import blocks
from experiments.common.computed import Computed
from experiments.common.parts import Trained
from experiments.engine import records, sealing, signals, trainer


def part(axes, name='p', **options):
  return Trained(name, axes, None, trainer.Schedule(2, 1), **options)


class Case(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, made, number, lanes, values, done=True, **final):
    """Write a block as a run would: values [step][lane]."""
    block = self.folder / made.name / f'lanes_{number:02d}'
    records.write_whole(block / 'lanes.json', {
      'defined_by': made.definition, 'lanes': lanes})
    with records.Records(block / 'metrics.jsonl') as log:
      for step, row in enumerate(values):
        log.write(step, **row)
    if done:
      records.write_whole(block / 'done.json', final)


class TrainedTest(Case):

  def test_lanes_are_the_product_of_the_axes(self):
    made = part({'rate': (0.1, 0.2), 'seed': (0, 1)},
                also=lambda at: {'twice': 2 * at['seed']})
    self.assertEqual(made.lanes, [
      {'rate': r, 'seed': s, 'twice': 2 * s} for r in (0.1, 0.2)
      for s in (0, 1)])
    self.assertEqual(made.size, 8)

  def test_a_quantity_that_one_block_lacks_is_null_in_its_lanes(self):
    made = part({'seed': (0, 1, 2)})
    self.write(made, 0, [{'seed': 0}, {'seed': 2}], [
      {'loss': [1., 2.]}, {'loss': [3., 4.]}])
    self.write(made, 1, [{'seed': 1}], [
      {'loss': [5.]}, {'loss': [6.], 'num_left_out': [[0, 7]]}])
    found = made.read(self.folder)
    np.testing.assert_array_equal(found['loss'], [[1, 3], [5, 6], [2, 4]])
    np.testing.assert_array_equal(
      found['num_left_out'][:, 1], [[np.nan, np.nan], [0, 7],
                                    [np.nan, np.nan]])

  def test_a_file_that_is_cut_is_named(self):
    made = Computed('count', lambda stop: 3)
    made.run(self.folder, signals.Stop())
    path = self.folder / 'count.json'
    path.write_text(path.read_text()[:-3])
    for look in (made.missing, made.read):
      with self.assertRaisesRegex(sealing.LogDamagedError, 'count.json is not'):
        look(self.folder)

  def test_lanes_are_read_by_their_coordinates(self):
    """From two blocks, in another order, with a lane that is not asked for."""
    made = part({'rate': (0.1, 0.2), 'seed': (0, 1)}, dims={'w': ('axis',)})
    value = lambda at, step: 100 * step + 10 * at['rate'] + at['seed']
    def put(number, lanes):
      self.write(made, number, lanes, [
        {'loss': [value(at, step) for at in lanes]} | ({
          'w': [[value(at, step), 1.] for at in lanes]} if step else {})
        for step in range(3)], end=[value(at, 9) for at in lanes])

    self.assertRegex(made.missing(self.folder), r'p lacks 4 of 4 lanes, the '
                     r'first rate=0\.1, seed=0$')
    put(0, [{'rate': 0.2, 'seed': 1}, {'rate': 0.3, 'seed': 0},
            {'rate': 0.1, 'seed': 0}])
    self.assertIn('lacks 2 of 4 lanes, the first rate=0.1, seed=1',
                  made.missing(self.folder))
    put(1, [{'rate': 0.2, 'seed': 0}, {'rate': 0.1, 'seed': 1}])
    self.assertEqual(made.missing(self.folder), '')
    found = made.read(self.folder)
    self.assertEqual(dict(found.sizes),
                     {'rate': 2, 'seed': 2, 'step': 3, 'axis': 2})
    for rate in (0.1, 0.2):
      for seed in (0, 1):
        at = {'rate': rate, 'seed': seed}
        cell = found.sel(at)
        np.testing.assert_allclose(
          cell.loss, [value(at, step) for step in range(3)], 1e-6)
        np.testing.assert_allclose(cell.end, value(at, 9))
        np.testing.assert_allclose(
          cell.w.sel(step=[1, 2])[:, 0], [value(at, 1), value(at, 2)], 1e-6)
        # The first record has none.
        self.assertTrue(np.isnan(cell.w.sel(step=0)).all())

  def test_an_unfinished_block_does_not_count(self):
    made = part({'seed': (0,)})
    self.write(made, 0, made.lanes, [{'loss': [1.]}], done=False)
    self.assertIn('lacks 1 of 1', made.missing(self.folder))

  def test_a_block_of_other_lanes_may_be_of_another_definition(self):
    old = part({'seed': (7,)}, defined_by={'momentum': 0.5})
    self.write(old, 0, old.lanes, [{'loss': [1.]}])
    new = part({'seed': (0,)}, defined_by={'momentum': 0.9})
    self.assertIn('lacks 1 of 1', new.missing(self.folder))
    with self.assertRaisesRegex(trainer.OtherRunError,
                                'momentum: stored 0.5, now 0.9'):
      part({'seed': (0, 7)}, defined_by={'momentum': 0.9}).missing(self.folder)

  def test_the_digest_follows_the_records_that_are_read(self):
    made = part({'seed': (0, 1)})
    found = [made.digest(self.folder)]
    self.write(made, 0, [{'seed': 0}, {'seed': 9}], [{'loss': [1., 2.]}])
    found.append(made.digest(self.folder))
    self.write(made, 1, [{'seed': 1}], [{'loss': [1.]}])
    found.append(made.digest(self.folder))
    self.assertEqual(part({'seed': (0, 1)}).digest(self.folder), found[-1])
    self.write(part({'seed': (5,)}), 2, [{'seed': 5}], [{'loss': [1.]}])
    self.assertEqual(made.digest(self.folder), found[-1])  # not its own
    (self.folder / 'p/lanes_01/metrics.jsonl').write_text('{"step": 0}\n')
    found.append(made.digest(self.folder))
    self.assertLen(set(found), 4)

  def test_a_tuned_value_is_part_of_a_lane(self):
    tuned = lambda rate: part({'seed': (0,)}, also=lambda at: {'rate': rate})
    self.write(tuned(0.1), 0, tuned(0.1).lanes, [{'loss': [1.]}])
    self.assertEqual(tuned(0.1).missing(self.folder), '')
    self.assertNotEmpty(tuned(0.2).missing(self.folder))


class ComputedTest(Case):

  def test_is_computed_once(self):
    calls = []
    def compute(stop):
      calls.append(stop)
      return {'x': [1, None]}

    made = lambda **defined: Computed('sub/c', compute, defined)
    stop = signals.Stop()
    self.assertIn('c.json is missing', made(a=1).missing(self.folder))
    made(a=1).run(self.folder, stop)
    made(a=1).run(self.folder, stop)
    self.assertEqual(calls, [stop])
    self.assertEqual(made(a=1).read(self.folder), {'x': [1, None]})
    with self.assertRaisesRegex(trainer.OtherRunError, 'a: stored 1, now 2'):
      made(a=2).run(self.folder, stop)
    made(a=2).run(self.folder, stop, allow_changed=('a',))
    self.assertLen(calls, 1)


class DefinitionTest(Case):

  def test_a_line_for_each_difference(self):
    stored, now = {'a': 1, 'b': [2], 'c': 3}, {'a': 1, 'b': [4], 'd': 5}
    with self.assertRaises(trainer.OtherRunError) as caught:
      blocks.check_definition(stored, now, pathlib.Path('runs/x'))
    first, *rest, last = str(caught.exception).splitlines()
    self.assertIn('runs/x', first)
    self.assertEqual(rest, ['  b: stored [2], now [4]',
                            '  c: stored 3, now None',
                            '  d: stored None, now 5'])
    self.assertIn('--allow_changed=b,c,d', last)
    blocks.check_definition(stored, now, pathlib.Path('x'), 'bcd')

  def test_definitions_are_compared_as_json_has_them(self):
    made = part({'seed': (0,)}, defined_by={'sizes': (1, 2)})
    self.write(made, 0, made.lanes, [{'loss': [1.]}])
    text = (self.folder / 'p/lanes_00/lanes.json').read_text()
    self.assertEqual(json.loads(text)['defined_by']['sizes'], [1, 2])
    self.assertEqual(made.missing(self.folder), '')


if __name__ == '__main__':
  absltest.main()
