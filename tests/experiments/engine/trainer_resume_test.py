"""A run that was cut off goes on as if it had not been."""

import dataclasses
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments.engine import (
  checkpoints,
  compiled,
  records,
  signals,
  states,
  trainer,
)
from tests import helpers
from tests.experiments.engine import small, tiny_run

ROOT = pathlib.Path(__file__).parents[3]


class ResumeCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def log(self, name):
    return (self.folder / name / 'metrics.jsonl').read_bytes()

  def final(self, name):
    """The last state on the disk: what the next run would start from."""
    workers = trainer.Workers(4)
    program = tiny_run.program(workers)
    store = checkpoints.Checkpoints(self.folder / name / 'checkpoints')
    return states.begin(program, compiled.build(program, workers), store,
                        {'name': 'tiny'}, workers, ())[:2]


class ResumeTest(ResumeCase):

  def test_resumed_is_the_same_to_the_bit(self):
    self.check_resumed('epoch')

  @pytest.mark.slow
  def test_so_is_it_with_replacement(self):
    self.check_resumed('replacement')

  def check_resumed(self, sampling):
    """Cut at step 20, in the middle of an epoch of 3 steps."""
    run = functools.partial(
      tiny_run.run, sampling=sampling, save_seconds=1e9)
    whole = run(self.folder / 'a')
    run(self.folder / 'b', steps=20)
    resumed = run(self.folder / 'b')
    helpers.assert_same(resumed, whole)
    self.assertEqual(self.log('b'), self.log('a'))
    self.assertLen(records.read(self.folder / 'a/metrics.jsonl'), 16)

  @pytest.mark.slow
  def test_records_past_the_checkpoint_are_cut_back(self):
    tiny_run.run(self.folder / 'a')
    tiny_run.run(self.folder / 'b', steps=20)
    with open(self.folder / 'b/metrics.jsonl', 'a') as file:
      file.write('{"step": 24, "norm": [0, 0, 0]}\n{"step": 28, "no')
    tiny_run.run(self.folder / 'b')
    self.assertEqual(self.log('b'), self.log('a'))

  @pytest.mark.slow
  def test_a_finished_run_is_left_alone(self):
    first = tiny_run.run(self.folder / 'a')
    stamps = {p: p.stat().st_mtime_ns for p in self.folder.rglob('*')}
    again = tiny_run.run(self.folder / 'a')
    helpers.assert_same(again, first)
    self.assertEqual(
      {p: p.stat().st_mtime_ns for p in self.folder.rglob('*')}, stamps)

  def test_another_configuration_is_refused(self):
    tiny_run.run(self.folder / 'a', steps=8)
    before = self.log('a')
    with self.assertRaisesRegex(
        trainer.OtherRunError, "name: 'tiny' there, 'other' now"):
      tiny_run.run(self.folder / 'a', config={'name': 'other'})
    self.assertEqual(self.log('a'), before)

  def test_what_changed_is_said_before_what_follows_from_it(self):
    """Flags and numerics, not the leaves that they change."""
    begin = trainer.Schedule(8, 4, 0.)
    small.train(self.folder / 'a', begin, config={'size': 3})
    before = self.log('a')

    def go_on(says, size=3, **options):
      with self.assertRaisesRegex(trainer.OtherRunError, says):
        small.train(self.folder / 'a', config={'size': size}, **options)
      self.assertEqual(self.log('a'), before)

    go_on('size: 3 there, 4 now', 4, init=lambda lane: {'w': jnp.zeros(4)})
    go_on('with num_workers=2, devices=1, .* there are num_workers=4, .* pass '
          '--allow_reshape', workers=trainer.Workers(4))
    with helpers.double_precision():
      go_on("x64: stored 'False', now 'True'")
    flags = {'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_cpu_x=1'}
    with mock.patch.dict(os.environ, flags):
      go_on('xla_flags: stored')
      small.train(self.folder / 'a', begin, config={'size': 3})  # is finished
      small.train(self.folder / 'a', trainer.Schedule(12, 4, 0.),
                  config={'size': 3}, options={'allow_changed': ['xla_flags']})
    self.assertNotEqual(self.log('a'), before)

  @pytest.mark.slow
  def test_a_flag_stops_after_the_chunk_and_saves(self):
    stop = signals.Stop()
    stop._signum = signal.SIGTERM
    with self.assertRaises(signals.Interrupted) as caught:
      tiny_run.run(self.folder / 'b', stop=stop, save_seconds=1e9)
    self.assertEqual(caught.exception.exit_code, 143)
    self.assertEqual(self.final('b')[0], tiny_run.EVERY)
    tiny_run.run(self.folder / 'b')
    tiny_run.run(self.folder / 'a')
    self.assertEqual(self.log('b'), self.log('a'))


@pytest.mark.slow
class KillTest(ResumeCase):
  """Processes that are killed, by each signal, at random moments."""

  def start(self, name, pause=0.15):
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
      [sys.executable, '-m', 'tests.experiments.engine.tiny_run',
       str(self.folder / name),
       str(pause)], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True)
    self.addCleanup(process.kill)
    self.assertEqual(process.stdout.readline(), 'ready\n')
    return process

  def end(self, process):
    process.communicate(timeout=120)
    return process.returncode

  def wait_for_a_checkpoint(self, name, beyond=-1):
    store = checkpoints.Checkpoints(self.folder / name / 'checkpoints')
    deadline = time.monotonic() + 60
    while not any(step > beyond for step in store.steps()):
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.02)
    return store.steps()[-1]

  def test_killed_at_random_moments(self):
    rng, reached = random.Random(0), -1
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL,
                   signal.SIGINT):
      process = self.start('b')
      reached = self.wait_for_a_checkpoint('b', reached)
      time.sleep(rng.uniform(0, 0.4))
      process.send_signal(number)
      code = self.end(process)
      self.assertEqual(
        code, -number if number == signal.SIGKILL else 128 + number)
    self.assertLess(reached, tiny_run.STEPS)
    self.assertEqual(self.end(self.start('b', 0.)), 0)
    self.assertEqual(self.end(self.start('a', 0.)), 0)
    self.assertEqual(self.log('b'), self.log('a'))
    helpers.assert_same(self.final('b'), self.final('a'))

  def test_the_second_signal_leaves_at_once(self):
    process = self.start('b', 30.)  # the first chunk takes half a minute
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    self.assertIsNone(process.poll())
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    self.assertEqual(self.end(process), 143)
    self.assertLess(time.monotonic() - begin, 10)


@pytest.mark.slow
class WorkersTest(ResumeCase):

  def test_data_and_noise_to_the_bit_on_any_devices(self):
    """What 64 workers see: a loss of indices and of random bits."""
    rows = np.arange(2 * 3 * 128).reshape(2, 3, 128)

    def seen(backend, devices):
      workers = trainer.Workers(64, backend)
      axis = 'workers' if backend == 'vmap' else workers.axis_name
      self.assertEqual(isinstance(axis, tuple), backend != 'vmap')
      dealt = workers.split(rows)

      def fn(rows, key):
        noise = jax.random.normal(gradiv.worker_key(key, axis), (3,))
        return rows, noise

      return helpers.on_workers(
        fn, jnp.asarray(dealt), jax.random.key(0), axis, backend, 0,
        devices)

    reference = seen('vmap', None)
    np.testing.assert_array_equal(
      np.moveaxis(reference[0], (0, 1, 2), (2, 1, 0)).reshape(rows.shape),
      rows)
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        helpers.assert_same(
          seen(backend, jax.devices()[:count]), reference)

  @parameterized.parameters(('vmap', 8), ('pmap', 8), ('shard_map', 8),
                            ('shard_map', 16))
  def test_runs_on_every_backend(self, backend, count):
    one = tiny_run.run(self.folder / 'a', steps=4,
                       workers=trainer.Workers(count, 'vmap'))
    other = tiny_run.run(self.folder / 'b', steps=4,
                         workers=trainer.Workers(count, backend))
    helpers.assert_close(other, one, 1e-4, 1e-5)

  def test_lanes_in_groups(self):
    whole = tiny_run.run(self.folder / 'a', steps=8)
    groups = tiny_run.run(self.folder / 'b', steps=8,
                          workers=trainer.Workers(4, lanes_at_once=2))
    helpers.assert_close(groups, whole, 1e-5, 1e-6)

  def test_what_does_not_fit(self):
    with self.assertRaisesRegex(
        ValueError, 'batch_size=16: must be a multiple of num_workers=5'):
      tiny_run.run(self.folder, workers=trainer.Workers(5))
    for steps, every in ((10, 4), (0, 1), (4, 0)):
      with self.assertRaisesRegex(ValueError, f'steps={steps}'):
        trainer.Schedule(steps, every)


class NanTest(ResumeCase):

  def test_a_lane_that_diverges_leaves_the_others_alone(self):
    workers = trainer.Workers(4)
    schedule = trainer.Schedule(20, 4, 1e9)
    program = tiny_run.program(workers)
    wild = dataclasses.replace(program, lanes=program.lanes | {
      'learning_rate': jnp.array([0.1, 0.1, jnp.nan])})
    states = [trainer.train(p, schedule, self.folder / name,
                            config={'name': name}, workers=workers)
              for name, p in (('a', program), ('b', wild))]
    a, b = (np.asarray(s['params']['w']) for s in states)
    np.testing.assert_array_equal(b[:2], a[:2])
    self.assertTrue(np.isnan(b[2]).all())
    last = records.read(self.folder / 'b/metrics.jsonl')[-1]
    self.assertIsNone(last['norm'][2])
    self.assertEqual(last['num_skipped'][:2], [0, 0])
    self.assertGreater(last['num_skipped'][2], 0)


if __name__ == '__main__':
  absltest.main()
