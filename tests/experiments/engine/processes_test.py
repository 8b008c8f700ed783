"""Real processes train one run, are stopped, killed and taken up again."""

import os
import pathlib
import re
import signal
import sys
import tempfile
import time
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.engine import (
  checkpoints,
  placing,
  processes,
  records,
  signals,
  trainer,
)
from tests import helpers, processes as started
from tests.experiments.engine import shared_run

# Gloo adds in another order than one process does.
OF_LARGEST = 5e-6


class ProcessesCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))

  def start(self, name, kind, num_processes, devices_each=1, pause=0.0):
    address = started.coordinator_address()
    module = 'tests.experiments.engine.shared_run'
    return self.enterContext(started.Group(
      [[sys.executable, '-m', module, str(self.folder / name), kind,
        str(pause), address, str(num_processes), str(i)]
       for i in range(num_processes)], devices_each=devices_each))

  def ends(self, group, within):
    """Waits until all processes have ended; returns their exit codes."""
    deadline = time.monotonic() + within
    for process in group.processes:
      process.wait(max(deadline - time.monotonic(), 0.1))
    return [process.returncode for process in group.processes]

  def steps(self, name):
    return checkpoints.Checkpoints(self.folder / name / 'checkpoints').steps()

  def wait_for_a_checkpoint(self, name):
    deadline = time.monotonic() + 100
    while not self.steps(name):
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.05)

  def log(self, name):
    return (self.folder / name / 'metrics.jsonl').read_bytes()

  def final(self, name, kind, num_workers):
    """The last state on the disk."""
    workers = trainer.Workers(num_workers)
    program = shared_run.program(kind, workers)
    create = trainer.compiled_lib.build(program, workers).create
    store = checkpoints.Checkpoints(self.folder / name / 'checkpoints')
    return store.restore(jax.eval_shape(create)).state

  def assert_trains_to_the_same(self, kind, num_processes, devices_each):
    self.start('several', kind, num_processes, devices_each).wait()
    count = num_processes * devices_each
    with mock.patch.object(jax, 'device_count', lambda: count):
      shared_run.run(self.folder / 'one', kind)
    helpers.assert_close(
      self.final('several', kind, count), self.final('one', kind, count), 0,
      1e-9, of_largest=OF_LARGEST)
    logs = [records.read(self.folder / name / 'metrics.jsonl')
            for name in ('several', 'one')]
    self.assertEqual(*([row['step'] for row in rows] for rows in logs))
    for several, one in zip(*logs):
      helpers.assert_close(
        {name: np.array(x, float) for name, x in several.items()},
        {name: np.array(x, float) for name, x in one.items()}, 1e-4, 1e-5)


class ProcessesTest(ProcessesCase):

  def test_two_train_to_the_state_of_one(self):
    """And of the error that each worker has of its own, each saves a half."""
    self.assert_trains_to_the_same('private', 2, 1)

  @pytest.mark.slow
  def test_a_process_that_is_stuck_is_named_by_the_other(self):
    self.enterContext(mock.patch.dict(os.environ, STUCK_AFTER='2'))
    group = self.start('stuck', 'common', 2, pause=0.2)
    self.wait_for_a_checkpoint('stuck')
    os.kill(group.processes[1].pid, signal.SIGSTOP)
    try:
      deadline = time.monotonic() + 25  # before it counts as lost
      while 'does not answer' not in group.output(0):
        self.assertLess(time.monotonic(), deadline, group.output(0))
        time.sleep(0.2)
    finally:
      os.kill(group.processes[1].pid, signal.SIGCONT)
    self.assertRegex(group.output(0), r'stuck\? process 0 of 2 on \S+ has made')
    self.assertRegex(
      group.output(0), r'process 1: .* at step \d+ of 24 on \S+, and does not')
    self.assertEqual(self.ends(group, 100), [0, 0])

  @pytest.mark.slow
  def test_one_that_leaves_alone_waits_for_no_one(self):
    """It gets SIGTERM while process 0 draws; see `cli.exit_codes`."""
    code = '''
import os, signal, sys, time
from experiments.common import cli
from experiments.engine import processes, signals
with cli.exit_codes():
  processes.connect(sys.argv[1], 2, int(sys.argv[2]))
  processes.wait()
  with signals.leaving('half'):
    if processes.is_first():
      time.sleep(300)
    os.kill(os.getpid(), signal.SIGTERM)
'''
    address = started.coordinator_address()
    commands = [[sys.executable, '-c', code, address, f'{i}'] for i in (0, 1)]
    with started.Group(commands) as group:
      self.assertEqual(group.processes[1].wait(25), 143)
      self.assertIn('stopped by SIGTERM; half;', group.output(1))

  def test_rows_are_gathered_by_the_device_that_they_are_for(self):
    where = placing.Placing(jax.make_mesh(
      (8,), ('workers',), axis_types=(jax.sharding.AxisType.Auto,)))
    gathered = []

    def gather(rows):
      gathered.append(rows.ravel().tolist())
      return {'x': np.float32(rows) / 2}

    rows = where.rows(np.arange(32).reshape(16, 2), gather)
    self.assertEqual(gathered, np.arange(32).reshape(8, 4).tolist())
    np.testing.assert_array_equal(rows['x'], np.arange(32).reshape(16, 2) / 2)
    self.assertEqual(rows['x'].sharding, where.private)

  def test_one_process_agrees_with_itself(self):
    agreed = processes.Agreement()
    self.assertEqual(agreed(0, 1), [0, 1])
    stop = signals.Stop()
    processes.check(stop)
    stop.hear(signal.SIGTERM)
    self.assertTrue(stop)
    with self.assertRaises(signals.Interrupted) as caught:
      processes.check(stop)
    self.assertEqual(caught.exception.exit_code, 143)

  def test_layouts_that_leave_out_a_process(self):
    with mock.patch.object(processes, 'count', lambda: 2):
      for workers, message in (
          (trainer.Workers(8, 'vmap'), "backend='vmap'"),
          (trainer.Workers(8, 'pmap'), "backend='pmap'"),
          (trainer.Workers(4, 'shard_map'), 'num_workers=4: .* the 8 devices')):
        with self.assertRaisesRegex(ValueError, message):
          placing.of(workers)
      self.assertIsNone(placing.of(trainer.Workers(1)))


_FIT = """
import sys
import jax, numpy as np, optax
import gradiv
from experiments import engine
from tests.experiments.engine import small

numbers = []

def gather(rows):
  numbers.append(rows.size)
  return small.X[rows]

state = engine.fit(
  lambda key: {'w': jax.random.normal(key, (3,))}, small.loss,
  optax.chain(gradiv.aggregate_by_mean('workers'), optax.adam(0.1)),
  engine.pipeline.streamed(gather, len(small.X), 8),
  lambda params, x: {'first': x[0, 0]}, held_out=small.X,
  workdir=sys.argv[1], steps=8, every=2,
  workers=engine.Workers(2, 'shard_map'))
print('read', sum(numbers), 'ends at', np.asarray(state['params']['w']))
"""


@pytest.mark.slow
class FitTest(ProcessesCase):

  def test_each_process_reads_its_share(self):
    found = {count: started.run_script(
      _FIT, count, devices_each=2 // count,
      arguments=[str(self.folder / str(count))]) for count in (1, 2)}

    def numbers(text):
      read, params = re.search(r'read (\d+) ends at \[(.*)\]', text).groups()
      return int(read), np.array(params.split(), float)

    all_read, one = numbers(found[1][0])
    self.assertEqual(all_read, 8 * 8)
    for text in found[2]:
      share, several = numbers(text)
      self.assertEqual(share, 8 * 8 / 2)
      np.testing.assert_allclose(several, one, 1e-5)
    self.assertEqual(*(len(records.read(
      self.folder / name / 'metrics.jsonl')) for name in ('1', '2')))

  def test_workers_of_one_process_are_refused(self):
    script = _FIT.replace("engine.Workers(2, 'shard_map')", 'engine.Workers()')
    with self.assertRaisesRegex(
        AssertionError, 'each of 2 processes would train alone'):
      started.run_script(script, 2, arguments=[str(self.folder)])


@pytest.mark.slow
class SeveralTest(ProcessesCase):

  @parameterized.parameters(
    ('common', 2, 2), ('common', 4, 1), ('private', 4, 1))
  def test_they_train_to_the_state_of_one(self, kind, count, devices_each):
    self.assert_trains_to_the_same(kind, count, devices_each)

  @parameterized.parameters(('common', 2), ('private', 4))
  def test_a_killed_process_ends_the_others(self, kind, count):
    """And the same command goes on to the same end, to the bit."""
    for killed in (count - 1, 0):
      name = f'cut_{killed}'
      group = self.start(name, kind, count, pause=1.)
      self.wait_for_a_checkpoint(name)
      group.kill(killed)
      codes = self.ends(group, within=60)
      self.assertNotIn(0, codes)
      for i in set(range(count)) - {killed}:
        self.assertRegex(group.output(i), 'another (one is gone|task died)')
      self.assertLess(self.steps(name)[-1], shared_run.STEPS)
      self.start(name, kind, count).wait()
    self.start('whole', kind, count).wait()
    for name in ('cut_0', f'cut_{count - 1}'):
      self.assertEqual(self.log(name), self.log('whole'))
      helpers.assert_same(self.final(name, kind, count),
                          self.final('whole', kind, count))

  @parameterized.parameters(0, 1)
  def test_a_signal_to_one_stops_all_at_the_same_step(self, signaled):
    group = self.start('cut', 'common', 2, pause=1.)
    self.wait_for_a_checkpoint('cut')
    group.processes[signaled].send_signal(signal.SIGTERM)
    self.assertEqual(self.ends(group, within=60), [143, 143])
    for i in range(2):
      self.assertIn('stopped by SIGTERM; all is saved', group.output(i))
    last = self.steps('cut')[-1]
    self.assertLess(last, shared_run.STEPS)
    self.assertEqual(
      records.read(self.folder / 'cut/metrics.jsonl')[-1]['step'], last)
    for name in ('cut', 'whole'):
      self.start(name, 'common', 2).wait()
    self.assertEqual(self.log('cut'), self.log('whole'))

  def test_other_devices_are_refused_until_allowed(self):
    group = self.start('cut', 'private', 2, 2, pause=1.)
    self.wait_for_a_checkpoint('cut')
    group.processes[0].send_signal(signal.SIGTERM)
    self.assertEqual(self.ends(group, within=60), [143, 143])
    for count, devices_each, there in (
        (2, 1, 'num_workers=2, devices=2, processes=2'),
        (4, 1, 'num_workers=4, devices=4, processes=4')):
      group = self.start('cut', 'private', count, devices_each)
      self.assertEqual(self.ends(group, within=100), [1] * count)
      for i in range(count):
        self.assertIn('holds a run with num_workers=4, devices=4, processes=2; '
                      f'now there are {there}', group.output(i))
        self.assertIn('--allow_reshape', group.output(i))
    before = self.final('cut', 'private', 4)
    with mock.patch.dict(os.environ, RESHAPE='1'):
      self.start('cut', 'private', 2, 1).wait()
    self.assertEqual(self.steps('cut')[-1], shared_run.STEPS)
    after = self.final('cut', 'private', 2)
    self.assertEqual(
      [x.shape for x in jax.tree.leaves(after['opt_state'])],
      [(2, *x.shape[1:]) for x in jax.tree.leaves(before['opt_state'])])


if __name__ == '__main__':
  absltest.main()
