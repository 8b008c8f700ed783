"""Progress in plain lines: what is said, and how often."""

import contextlib
import io
from unittest import mock

from absl.testing import absltest

from experiments.engine import progress


class PlainTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.now = 100.0
    self.enterContext(
      mock.patch.object(progress.time, 'monotonic', lambda: self.now))
    self.out = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.out))

  def lines(self):
    """Take what has been printed."""
    text = self.out.getvalue()
    self.out.truncate(0)
    self.out.seek(0)
    return text.splitlines()

  def test_at_most_a_line_in_ten_seconds(self):
    with progress.board({'a': 800, 'b': 200}, finished=2) as board:
      board.begin('a')
      with progress.bar('a', 100) as line:
        self.now += 9
        line.update(10)
        self.assertEqual(self.lines(), [])
        self.now += 1
        line.update(10, loss=0.5)
        self.assertEqual(self.lines(), [
          '2 of 4 parts; 16% of 1,000 steps of all trainings, 0:52 left; '
          'a: 20 of 100 steps, 10 steps/s, loss 0.5'])
        line.update(70)
        self.assertEqual(self.lines(), [])
      board.finish('a', 'best loss 0.4')
      self.assertEqual(self.lines(), ['a: 10 s, best loss 0.4'])
      board.begin('b')
      self.now += 10
      board.show()
      self.assertEqual(self.lines(), [
        '3 of 4 parts; 80% of 1,000 steps of all trainings, 0:05 left; b: at '
        'work'])

  def test_what_is_not_trained_is_shown_and_not_counted(self):
    with progress.board({'a': 10, 'b': 10, 'bands': 0}) as board:
      for name in ('a', 'bands'):
        board.begin(name)
        board.finish(name, '')
      board.begin('b')
      self.now += 10
      board.show()
    self.assertEqual(self.lines(), [
      'a: 0 s', 'bands: 0 s', '1 of 2 parts; 50% of 20 steps of all '
      'trainings, 0:10 left; b: at work'])

  def test_compiling_is_a_state_and_no_part_of_the_speed(self):
    with progress.board({'a': 100}) as board:
      board.begin('a')
      with progress.bar('a', 100) as line:
        self.now += 50
        self.assertEqual(line.state, 'compiling')
        line.update(10)
        self.now += 1
        line.update(10)
        self.assertEqual(line.state, '20 of 100 steps, 10 steps/s')

  def test_two_parts_at_once(self):
    with progress.board({'a': 10, 'b': 30}) as board:
      board.begin('a')
      board.begin('b')
      with progress.bar('a', 10) as a, progress.bar('b', 10) as b:
        a.update(5)
        self.now += 20
        b.update(5)
      self.assertEqual(self.lines(), [
        '0 of 2 parts; 50% of 40 steps of all trainings, 0:20 left; '
        'a: 5 of 10 steps; b: 5 of 10 steps'])

  def test_what_an_earlier_process_did_says_nothing_of_the_speed(self):
    with progress.bar('a', 100, done=50) as line:
      self.now += 10
      line.update(25)
    self.assertEqual(self.lines(), [
      '75% of 100 steps of all trainings, 0:10 left; a: 75 of 100 steps'])


if __name__ == '__main__':
  absltest.main()
