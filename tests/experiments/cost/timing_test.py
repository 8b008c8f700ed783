"""Tests of timing in turn, by a clock that moves when a step says so."""

from unittest import mock

from absl.testing import absltest

from experiments.cost import timing


class TimingTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.now, self.visits = 0., []
    self.enterContext(mock.patch.object(
      timing.time, 'perf_counter', lambda: self.now))

  def step(self, name, *seconds):
    """Make a step that takes each of `seconds` in turn."""
    left = list(seconds)

    def run(argument):
      self.visits.append(name + argument)
      self.now += left.pop(0)

    return run

  def test_medians_of_all_rounds_but_the_warm_up(self):
    times = timing.in_turn(
      {'a': self.step('a', 9, 8, 1, 2, 6), 'b': self.step('b', 7, 7, 5, 4, 3)},
      '!', rounds=3)
    self.assertEqual(times, {'a': 2000, 'b': 4000})
    self.assertEqual(self.visits, ['a!'] * 2 + ['b!'] * 2 + ['a!', 'b!'] * 3)

  def test_no_round_after_the_time_but_for_the_first_three(self):
    times = timing.in_turn(
      {'a': self.step('a', 1, 1, 1, 2, 3, 4, 5)}, '', rounds=9, seconds=11.)
    self.assertEqual(times, {'a': 2500})  # 8 s, then 12 s
    self.visits.clear()
    timing.in_turn({'a': self.step('a', *[5] * 5)}, '', rounds=9, seconds=1.)
    self.assertLen(self.visits, 5)

  def test_short_steps_are_called_several_times_a_visit(self):
    # The first call after a huge step is slow, and no median notices.
    times = timing.in_turn(
      {'a': self.step('a', *[.25] * 3),
       'b': self.step('b', .5, .06, .5, .03, .04, .05)}, '', rounds=1)
    self.assertEqual(''.join(self.visits), 'aabb' + 'abbbb')
    self.assertAlmostEqual(times['b'], 45)


if __name__ == '__main__':
  absltest.main()
