"""Streamed and in-memory data give the same run."""

import pathlib
import tempfile
import threading

import numpy as np
import pytest
from absl.testing import absltest

from experiments import data
from experiments.data import pipeline
from tests import helpers
from tests.experiments.engine import small


class Reader:
  """Reads examples one by one, as from a disk."""

  def __len__(self):
    return small.EXAMPLES

  def read(self, indices):
    return {'x': np.stack([small.X[i] for i in indices])}


class PipelineTest(absltest.TestCase):

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def train(self, batches):
    folder = self.folder()
    state = small.train(
      folder, lanes=small.program().lanes | {'order': np.zeros(2, np.int32)},
      data=batches.data, fetch=batches.fetch, batch=batches.batch,
      gather=batches.gather,
      loss=lambda params, batch, key: small.loss(params, batch['x'], key))
    return state, (folder / 'metrics.jsonl').read_bytes()

  def test_streamed_and_in_memory_give_equal_records(self):
    self.check_equal('epoch')

  @pytest.mark.slow
  def test_so_they_do_with_replacement(self):
    self.check_equal('replacement')

  def check_equal(self, sampling):
    options = dict(seed=3, sampling=sampling)
    arrays = {'x': small.X}
    examples = data.Examples('own', None, None, None, Reader())
    state, log = self.train(pipeline.in_memory(arrays, small.BATCH, **options))
    streamed, other = self.train(pipeline.streamed(
      examples.gather, len(examples), small.BATCH, **options))
    helpers.assert_same(streamed, state)
    self.assertEqual(other, log)
    order = data.order(3, range(small.STEPS), small.BATCH, small.EXAMPLES,
                       sampling=sampling)
    own, again = self.train(pipeline.by_step(
      lambda step: {'x': small.X[order[step]]}))
    helpers.assert_same(own, state)
    self.assertEqual(again, log)

  def test_lengths_that_differ(self):
    with self.assertRaisesRegex(ValueError, "{'x': 3, 'y': 2}"):
      pipeline.in_memory({'x': np.ones(3), 'y': np.ones(2)}, 1)
    with self.assertRaisesRegex(ValueError, 'batch_size must be'):
      pipeline.in_memory({'x': np.ones(3)}, 0)


class PrefetchTest(absltest.TestCase):

  def test_the_next_is_fetched_while_one_is_in_use(self):
    fetched = [threading.Event() for _ in range(4)]

    def fetch(i):
      fetched[i].set()
      return i

    found = pipeline.prefetch(fetch, range(4))
    for i in range(3):
      self.assertEqual(next(found), i)
      self.assertTrue(fetched[i + 1].wait(10))
      if i < 2:
        self.assertFalse(fetched[i + 2].is_set())
    self.assertEqual(list(found), [3])

  def test_an_error_of_the_thread_is_raised_where_it_is_needed(self):
    found = pipeline.prefetch(lambda i: 1 / (2 - i), range(4))
    self.assertEqual([next(found), next(found)], [0.5, 1.0])
    with self.assertRaises(ZeroDivisionError):
      next(found)


if __name__ == '__main__':
  absltest.main()
