"""Gradients that are not finite: counted, named, and the end of a run."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest

import gradiv
from experiments import engine
from experiments.engine import checkpoints, left_out, records, trainer
from tests import helpers
from tests.experiments.engine import small

SCHEDULE = trainer.Schedule(small.STEPS, 4, 0.)


def with_bad_examples(workers):
  """Make all examples NaN that some of the two workers see."""
  def batch(arrays, lane, rows):
    bad = jnp.isin(jax.lax.axis_index('workers'), jnp.array(workers))
    return jnp.where(bad, jnp.nan, 1.) * arrays[rows]

  return batch


class LeftOutCase(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.stderr = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.stderr))

  def records(self, name=''):
    return records.read(self.folder / name / 'metrics.jsonl')


class CountTest(LeftOutCase):

  def test_records_hold_how_often_each_worker_was_left_out(self):
    small.train(self.folder, SCHEDULE, batch=with_bad_examples([1]),
                options={'max_nonfinite': 3})
    last = self.records()[-1]
    # Two lanes, two workers.
    self.assertEqual(last['num_left_out'], [[0, 24], [0, 24]])
    self.assertIn('24 steps of 2 lanes: 48 of worker 1', self.stderr.getvalue())

  @pytest.mark.slow
  def test_a_sound_run_says_nothing_and_its_numbers_are_the_same(self):
    one = small.train(self.folder / 'a', SCHEDULE)
    two = small.train(self.folder / 'b', SCHEDULE,
                      options={'max_nonfinite': 3})
    helpers.assert_same(one, two)
    self.assertEqual(self.records('a'), self.records('b'))
    self.assertNotIn('not finite', self.stderr.getvalue())

  def test_steps_in_a_row_go_on_from_scan_to_scan(self):
    bad = np.zeros((4, 1, 2), int)
    bad[2:] = 1
    counted = left_out.LeftOut(6, {})
    counted.add(4, left_out.over_steps(jnp.asarray(bad)))
    counted.add(8, left_out.over_steps(jnp.ones((4, 1, 2), int)))
    self.assertTrue(counted.is_too_much)
    again = left_out.LeftOut(7, counted.meta['left_out'])
    self.assertFalse(again.is_too_much)
    again.add(12, left_out.over_steps(jnp.asarray(1 - bad)))
    self.assertFalse(again.is_too_much)
    np.testing.assert_array_equal(again.columns['num_left_out'], [[8, 8]])


class AbortTest(LeftOutCase):

  def abort(self, name='', **changes):
    with self.assertRaises(left_out.NonFiniteError) as caught:
      small.train(self.folder / name, SCHEDULE, batch=with_bad_examples([0, 1]),
                  options={'max_nonfinite': 6}, **changes)
    return str(caught.exception)

  def test_it_names_the_step_a_worker_and_a_leaf_and_saves(self):
    text = self.abort()
    self.assertRegex(
      text, r"at step 12 no worker has had a finite gradient for 12 steps in a "
      r"row.*worker 0 \(of 2 such workers\).*\['w'\]; all is saved")
    store = checkpoints.Checkpoints(self.folder / 'checkpoints')
    self.assertEqual(store.steps()[-1], 12)
    self.assertEqual([row['step'] for row in self.records()], [0, 4, 8, 12])

  @pytest.mark.slow
  def test_it_ends_there_again_or_goes_on_where_that_is_asked(self):
    self.abort()
    self.assertIn('for 16 steps', self.abort())
    self.assertIn('for 20 steps', self.abort())
    for _ in range(2):  # the last one trains nothing
      self.assertIn('at step 24 no worker', self.abort())
    small.train(self.folder, SCHEDULE, batch=with_bad_examples([0, 1]))
    self.assertEqual(self.records()[-1]['step'], small.STEPS)

  @pytest.mark.slow
  def test_one_lane_that_learns_is_trained_on(self):
    def batch(arrays, lane, rows):
      return jnp.where(lane['order'] == 0, jnp.nan, 1.) * arrays[rows]

    small.train(self.folder, SCHEDULE, batch=batch,
                options={'max_nonfinite': 4})
    self.assertEqual(
      self.records()[-1]['num_left_out'], [[24, 24], [0, 0]])

  @pytest.mark.slow
  def test_a_model_of_ones_own(self):
    tx = optax.chain(gradiv.aggregate_by_mean('workers'), optax.sgd(0.1))
    with self.assertRaisesRegex(
        left_out.NonFiniteError, r"for 6 steps.*not in \['b'\];"):
      engine.fit(
        lambda key: {'a': jnp.ones(3), 'b': jnp.ones(())},
        lambda p, x, key: jnp.sum(p['a']) + jnp.sqrt(p['b'] * 0) * x.sum(),
        tx, lambda step: np.ones((4, 3), np.float32), workdir=self.folder,
        workers=engine.Workers(2), steps=12, every=2, max_nonfinite=4)


class FiniteCheckpointTest(LeftOutCase):

  @pytest.mark.slow
  def test_the_first_state_is_kept_where_no_later_one_is_finite(self):
    small.train(self.folder / 'bad', SCHEDULE, rates=(np.nan, np.nan))
    store = checkpoints.Checkpoints(self.folder / 'bad' / 'checkpoints')
    self.assertEqual(store.steps(), [0, small.STEPS])
    self.assertTrue(store.has_finite())
    # Without the last one, the run begins anew.
    (store.directory / f'step_{small.STEPS:08d}').rename(self.folder / 'aside')
    small.train(self.folder / 'bad', SCHEDULE)
    small.train(self.folder / 'sound', SCHEDULE)
    self.assertEqual(self.records('bad'), self.records('sound'))


if __name__ == '__main__':
  absltest.main()
