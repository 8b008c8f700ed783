"""A study trains what is missing, and nothing that is there."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.common import flags, reporting, running
from experiments.common.computed import Computed
from experiments.common.parts import Trained
from experiments.engine import signals, trainer
from tests.experiments.common.tiny_study import Config, Tiny
from tests.experiments.engine import writers_test


class Case(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))

  def config(self, **options):
    return Config(workdir=str(self.folder / 'run'), **options)

  def go(self, config, *, is_report=False):
    """Run the study, or report it; return it, with what it printed."""
    tiny = Tiny()
    with contextlib.redirect_stdout(io.StringIO()) as out, \
        contextlib.redirect_stderr(io.StringIO()) as err:
      self.outcome = (
        reporting.report(tiny, config) if is_report else
        running.run(tiny, config, stop=signals.Stop()))
    self.printed, self.told = out.getvalue(), err.getvalue()
    return tiny

  def stamps(self):
    """Read when each record was last written."""
    logs = sorted(self.folder.rglob('metrics.jsonl'))
    return {str(path): path.stat().st_mtime_ns for path in logs}


class WatchTest(Case):

  def test_writers_get_the_records_of_each_part(self):
    seen = writers_test.Listener()
    with mock.patch.object(Config, 'watch', lambda self: {'writers': [seen]}):
      self.go(self.config(batch_sizes=(2,), num_seeds=1))
    self.assertEqual(list(seen.rows), [0, 2, 4, 6])


class GoesOnTest(Case):
  """What defines a run is what its numbers depend on, and no more."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.finished = cls.enterClassContext(tempfile.TemporaryDirectory())
    with contextlib.redirect_stdout(io.StringIO()) as out, \
        contextlib.redirect_stderr(io.StringIO()) as err:
      cls.first = running.run(
        Tiny(), Config(workdir=f'{cls.finished}/run'), stop=signals.Stop())
    cls.first_printed, cls.first_told = out.getvalue(), err.getvalue()

  def setUp(self):
    super().setUp()
    shutil.copytree(self.finished, self.folder, dirs_exist_ok=True)
    self.before = self.stamps()

  def test_a_whole_run(self):
    self.assertLen(self.before, 3)
    self.printed, self.told = self.first_printed, self.first_told
    for name in ('claims.json', 'summary.json', 'claims.png', 'count.json',
                 'report.html'):
      self.assertTrue((self.folder / 'run' / name).exists(), name)
    self.assertIn('✓', self.printed)
    self.assertIn('runs shrink', self.printed)
    self.assertRegex(self.printed, r'\d s in all')
    for part in ('sweep/batch_2', 'sweep/batch_4', 'best'):
      self.assertRegex(self.told, rf'{part}: \d+ s, best loss \d')

  @parameterized.parameters(
    dict(target=8.), dict(batch_sizes=(2,)), dict(lanes_at_once=1),
    dict(save_seconds=1.), dict(parts_at_once=1), dict(num_seeds=1),
    dict(rates=(0.05,)), {})
  def test_needs_no_training(self, **changed):
    again = self.go(self.config(**changed))
    self.assertEqual(again.built, [])  # not even traced
    self.assertEqual(self.stamps(), self.before)
    self.assertIn('parts were finished before', self.told)

  def test_a_changed_target_is_judged_anew(self):
    steps = self.first.reduced['steps']
    self.go(self.config(target=8.))
    self.assertTrue(np.isfinite(steps).all())
    self.assertGreater(self.outcome.reduced['steps'].sum(), steps.sum())

  def test_one_seed_more_trains_its_lanes_alone(self):
    norms = self.first.reduced['norm']
    self.go(self.config(num_seeds=3))
    after = self.stamps()
    self.assertEqual({k: after[k] for k in self.before}, self.before)
    new = sorted(set(after) - set(self.before))
    self.assertLen(new, 3)
    for log in map(pathlib.Path, new):
      self.assertEqual(log.parent.name, 'lanes_01')
      lanes = json.loads((log.parent / 'lanes.json').read_text())['lanes']
      self.assertEqual({lane['seed'] for lane in lanes}, {2})
    np.testing.assert_array_equal(self.outcome.reduced['norm'][:2], norms)

  def test_one_batch_size_more_trains_one_part(self):
    again = self.go(self.config(batch_sizes=(2, 4, 8)))
    self.assertEqual(set(again.built), {'sweep/batch_8'})

  def test_what_the_numbers_depend_on_is_refused(self):
    with self.assertRaises(trainer.OtherRunError) as caught:
      self.go(self.config(momentum=0.5, steps=8))
    text = str(caught.exception)
    self.assertRegex(text, r'\n  momentum: stored 0\.0, now 0\.5\n')
    self.assertRegex(text, r'\n  steps: stored 6, now 8\n')
    self.assertIn('--allow_changed=momentum,steps', text)
    self.assertEqual(self.stamps(), self.before)

  def test_allow_changed_uses_what_is_there(self):
    again = self.go(self.config(momentum=0.5, allow_changed=('momentum',)))
    self.assertEqual(again.built, [])
    self.assertEqual(self.stamps(), self.before)

  def test_allow_changed_goes_on_with_an_unfinished_block(self):
    block = self.folder / 'run' / 'best' / 'lanes_00'
    (block / 'done.json').unlink()
    changed = self.config(momentum=0.5, allow_changed=('momentum',))
    self.assertEqual(set(self.go(changed).built), {'best'})
    self.assertEqual(self.stamps(), self.before)  # its checkpoint was whole

  def test_a_report_trains_nothing(self):
    again = self.go(self.config(target=8.5), is_report=True)
    self.assertEqual(again.built, [])
    self.assertEqual(self.stamps(), self.before)
    self.assertIn('runs shrink', self.printed)
    self.assertIn('Steps', self.printed)

  def test_a_report_of_other_flags_is_refused(self):
    with self.assertRaisesRegex(trainer.OtherRunError, 'momentum'):
      self.go(self.config(momentum=0.5), is_report=True)

  @parameterized.parameters(
    (dict(num_seeds=3), r'batch_2 lacks 2 of 6 lanes, the first rate=0\.01, '
     'seed=2: run without --report'),
    (dict(batch_sizes=(2, 8)), 'batch_8 lacks 4 of 4 lanes'))
  def test_a_report_names_what_is_missing(self, changed, message):
    with self.assertRaisesRegex(FileNotFoundError, message) as caught:
      self.go(self.config(**changed), is_report=True)
    self.assertNotIn('\n', str(caught.exception))


class OrderTest(Case):

  def test_everything_is_checked_before_anything_is_trained(self):
    tiny = self.go(self.config())
    parts = ['best', 'sweep/batch_2', 'sweep/batch_4']
    self.assertEqual(sorted(tiny.built[:3]), parts)
    self.assertEqual(sorted(tiny.built[3:]), parts)

  def test_shapes_that_do_not_fit_are_one_line_that_names_the_part(self):
    class Misfit(Tiny):
      def stages(self, config, task, done):
        yield from super().stages(config, task, done)
        yield [dataclasses.replace(
          self.part(config, 'odd', 3, {'rate': (0.1,), 'seed': (0,)}),
          workers=trainer.Workers(2))]

    with self.assertRaises(flags.UsageError) as caught:
      running.run(Misfit(), self.config(), stop=signals.Stop())
    text = str(caught.exception)
    self.assertRegex(text, r'^part odd: batch_size=3: must be a multiple')
    self.assertNotIn('\n', text)
    self.assertEqual(self.stamps(), {})
    path = self.folder / 'run' / 'traceback.txt'
    self.assertIn('Traceback', path.read_text())

  def test_a_signal_stops_between_parts(self):
    stop = signals.Stop()
    stop._handle(signals.signal.SIGTERM, None)
    with contextlib.redirect_stderr(io.StringIO()):
      with self.assertRaises(signals.Interrupted) as caught:
        running.run(Tiny(), self.config(), stop=stop)
    self.assertEqual(caught.exception.exit_code, 143)
    self.assertEqual(self.stamps(), {})

  @parameterized.parameters((signal.SIGTERM, 143), (signal.SIGINT, 130))
  def test_a_signal_in_the_report_says_what_is_kept(self, signum, code):
    class Killed(Tiny):
      def claims(self, config, reduced):
        os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    with contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(
        signals.Interrupted, 'what was trained is saved, and the report is '
        'not') as caught:
      running.run(Killed(), self.config(num_seeds=1))
    self.assertEqual(caught.exception.exit_code, code)
    self.assertEqual(signal.getsignal(signum), before)
    stamps = self.stamps()
    self.assertEmpty(self.go(self.config(num_seeds=1)).built)
    self.assertEqual(self.stamps(), stamps)

  def test_a_signal_in_a_computation_says_that_it_begins_anew(self):
    def compute(stop):
      stop._handle(signal.SIGTERM, None)
      stop.check()

    part = Computed('count', compute)
    with contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(
        signals.Interrupted, 'stopped by SIGTERM; what was finished is saved, '
        'and count begins anew'):
      part.run(self.folder, signals.Stop())
    self.assertFalse((self.folder / 'count.json').exists())

  @parameterized.parameters('prepare', 'stages')
  def test_what_a_paper_refuses_is_one_line_before_training(self, where):
    def refuse(self, *args):
      raise ValueError('learning_rate=7:\n must be small')

    with mock.patch.object(Tiny, where, refuse), self.assertRaisesRegex(
        flags.UsageError, 'learning_rate=7: must be small .see .*traceback'):
      self.go(self.config())
    self.assertEqual(self.stamps(), {})

  @pytest.mark.slow
  def test_two_roundings_are_one_claim(self):
    self.go(self.config(roundings=2))
    claim, = self.outcome.claims
    self.assertAlmostEqual(claim.second.value, claim.measured.value, 5)
    self.assertLen(self.stamps(), 6)
    self.assertTrue((self.folder / 'run' / 'reversed' / 'best').is_dir())

  def test_the_folder_is_named_after_the_study_where_none_is_given(self):
    with contextlib.chdir(self.folder):
      self.go(Config())
    self.assertTrue((self.folder / 'runs' / 'tiny' / 'claims.json').exists())


class LastValueTest(absltest.TestCase):

  def test_the_lowest_loss_of_all_lanes_at_the_end(self):
    part = Trained('x', {'seed': (0, 1)}, None, trainer.Schedule(2, 1))
    rows = [{'step': i, 'loss': [9. - i, np.nan], 'count': [5., 6.]}
            for i in range(3)]
    found = part._dataset(part.names, rows, {})
    self.assertEqual(running.last_value(found), 'best loss 7')
    tested = part._dataset(part.names, rows, {'test': [0.25, 0.5]})
    self.assertEqual(running.last_value(tested), 'best test 0.5')
    self.assertEqual(running.last_value({'a': 1}), '')


if __name__ == '__main__':
  absltest.main()
