"""One's own model and data, by the front door."""

import contextlib
import io
import os
import pathlib
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest
from flax import nnx

import gradiv
from experiments import engine
from experiments.engine import checkpoints, records, signals
from tests import helpers
from tests.experiments.engine import small

ROOT = pathlib.Path(__file__).parents[3]
STEPS = 60


def init(key):
  return {'w': jax.random.normal(key, (3,))}


def loss(params, batch, key):
  noisy = batch['x'] + 0.1 * jax.random.normal(key, batch['x'].shape)
  return small.loss(params, noisy, key)


def batch_of(step, pause=0.0):
  time.sleep(pause)
  return {'x': small.X[np.random.default_rng(step).integers(0, 32, 8)]}


def run(workdir, *, batches=batch_of, optimizer=None, save_seconds=1e9,
        **options):
  return engine.fit(
    init, loss, optimizer or optax.adam(0.1), batches,
    lambda params, x: {'norm': jnp.sum(params['w']**2), 'first': x[0, 0]},
    held_out=small.X, workdir=workdir,
    **dict(steps=engine.Schedule(STEPS, 20, save_seconds, scan=2)) | options)


class FitCase(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def log(self, name):
    return (self.folder / name / 'metrics.jsonl').read_bytes()


class ExampleTest(FitCase):

  def test_a_model_of_ones_own_takes_25_lines(self):
    path = ROOT / 'examples' / 'own_model.py'
    code = path.read_text().split('"""')[2].splitlines()
    self.assertLessEqual(len([line for line in code if line.strip()]), 25)
    out = io.StringIO()
    with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
      runpy.run_path(str(path))
    self.assertRegex(out.getvalue(), r'accuracy (0\.9\d|1\.00)')
    self.assertLen(
      records.read(self.folder / 'runs/own_model/metrics.jsonl'), 4)


class FitTest(FitCase):

  def test_a_longer_run_is_not_given_for_a_shorter_one(self):
    schedule = lambda steps: engine.Schedule(steps, 2)
    run(self.folder, steps=schedule(6))
    with self.assertRaisesRegex(ValueError, 'a run of 6 steps already, more '
                                'than steps=4: ask for as many'):
      run(self.folder, steps=schedule(4))
    self.assertIn('params', run(self.folder, steps=schedule(6)))

  def test_bad_arguments_are_refused_by_name_before_anything_is_written(self):
    schedule = engine.Schedule
    bad = dict(
      seed=-1, accumulate=0, max_nonfinite=-1, stuck_after=np.nan, steps=1.5,
      compute_dtype=jnp.int8, evaluate=3, read='x', model_state=1, view=2,
      optimizer=0.1, profile=(3, 3), writers=('paper',))
    for name, value in bad.items():
      given = {'evaluate': None} | {name: value}
      with self.subTest(name), self.assertRaisesRegex(ValueError, name):
        engine.fit(init, loss, given.pop('optimizer', optax.sgd(0.1)), batch_of,
                   given.pop('evaluate'), workdir=self.folder / name,
                   **{'steps': 4} | given)
      self.assertFalse((self.folder / name / 'metrics.jsonl').exists())
    for make in (
        lambda: schedule(4, 2, save_seconds=np.nan), lambda: schedule(4, 1.5),
        lambda: engine.Workers(0), lambda: engine.Workers(2, 'tpu'),
        lambda: engine.Workers(2, lanes_at_once=-1)):
      with self.assertRaises(ValueError):
        make()

  @pytest.mark.slow
  def test_it_is_the_loop_that_one_would_write(self):
    state = run(self.folder / 'a', steps=3, every=1)
    first = records.read(self.folder / 'a/metrics.jsonl')[0]
    params = init(engine.trainer.key_for(jnp.uint32(0), 'init'))
    np.testing.assert_allclose(first['norm'], np.sum(params['w']**2), 1e-6)
    self.assertEqual(first['first'], np.float32(small.X[0, 0]))
    tx = optax.adam(0.1)
    opt_state = tx.init(params)
    for step in range(3):
      key = jax.random.fold_in(
        engine.trainer.key_for(jnp.uint32(0), 'noise'), step)
      keys = jax.vmap(lambda _: gradiv.worker_key(key, 'workers'),
                      axis_name='workers')(jnp.zeros(1))
      grads = jax.grad(loss)(params, batch_of(step), keys[0])
      updates, opt_state = tx.update(grads, opt_state)
      params = optax.apply_updates(params, updates)
    helpers.assert_close(state['params'], params, 1e-5, 1e-6)

  def test_a_finished_run_is_read_and_a_longer_one_goes_on(self):
    rate = {'config': {'rate': 0.1}}
    state = run(self.folder / 'a', steps=20, **rate)
    before = {p: p.stat().st_mtime_ns for p in self.folder.rglob('*')}
    with contextlib.redirect_stderr(io.StringIO()) as err:
      again = run(self.folder / 'a', steps=20, title='mine', **rate)
    helpers.assert_same(again, state)
    self.assertIn(
      f'mine: {self.folder}/a holds a finished run of 20 steps: it is read, '
      'and nothing is trained. What is the same in it and in this call: '
      'num_workers, rate, seed. A change of anything else is not noticed: name '
      'it in config=\n',
      err.getvalue())
    self.assertEqual(
      {p: p.stat().st_mtime_ns for p in self.folder.rglob('*')}, before)
    helpers.assert_same(run(self.folder / 'a', steps=40, **rate),
                        run(self.folder / 'b', steps=40, every=20))

  def test_another_optimizer_or_model_is_said(self):
    run(self.folder, steps=2)
    with self.assertRaisesRegex(
        checkpoints.CheckpointError,
        f"^workdir='{self.folder}' holds a run of another optimizer: use "
        r'another workdir \(.*does not fit: .*, nothing is wanted'):
      run(self.folder, steps=2, optimizer=optax.sgd(0.1))
    with self.assertRaisesRegex(
        checkpoints.CheckpointError,
        f"^workdir='{self.folder}' holds a run of another model: use"):
      engine.fit(lambda key: {'v': init(key)['w']},
                 lambda params, batch, key: jnp.sum(params['v']**2),
                 optax.adam(0.1), batch_of, workdir=self.folder, steps=2)

  def test_the_folder_of_a_paper_is_refused_and_left_as_it_was(self):
    config = self.folder / 'config.json'
    config.write_text(
      '{"program": "some.study:Study", "flags": {}, "parts": []}')
    with self.assertRaisesRegex(
        ValueError, f"^workdir='{self.folder}' holds a run of some.study:Study "
        r'\(config.json\): must be a folder of its own'):
      run(self.folder)
    self.assertEqual(list(self.folder.iterdir()), [config])
    config.write_text('{"program": "of the user"}')
    run(self.folder, steps=2)

  def test_a_flag_stops_it_and_it_resumes_to_the_bit(self):
    stop = signals.Stop()
    stop._signum = signal.SIGTERM
    with self.assertRaises(signals.Interrupted):
      run(self.folder / 'cut', stop=stop)
    store = checkpoints.Checkpoints(self.folder / 'cut/checkpoints')
    self.assertEqual(store.steps(), [2])
    helpers.assert_same(run(self.folder / 'cut'), run(self.folder / 'whole'))
    self.assertEqual(self.log('cut'), self.log('whole'))

  def test_workers_are_to_be_aggregated(self):
    two = dict(workers=engine.Workers(2), steps=4)
    with self.assertRaisesRegex(
        ValueError, r"begin with gradiv.aggregate_by_mean\('workers'\)"):
      run(self.folder / 'a', **two)
    state = run(self.folder / 'b', optimizer=optax.chain(
      gradiv.aggregate_by_mean('workers'), optax.adam(0.1)), **two)
    self.assertEqual(state['params']['w'].shape, (3,))

  def test_another_seed_is_another_run(self):
    run(self.folder / 'a', steps=2)
    with self.assertRaisesRegex(engine.trainer.OtherRunError, 'seed: 0 there'):
      run(self.folder / 'a', steps=2, seed=1)

  def test_batch_normalization_of_flax(self):
    """Its averages are those of the batches, over both workers."""
    norm = nnx.BatchNorm(3, momentum=0.5, use_scale=False, rngs=nnx.Rngs(0))
    graph, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def normed_loss(params, stats, batch, key):
      norm = nnx.merge(graph, params, stats)
      loss = jnp.mean((norm(batch['x']) - 1)**2)
      return loss, {'model_state': nnx.state(norm, nnx.BatchStat)}

    state = engine.fit(
      lambda key: params, normed_loss, optax.chain(
        gradiv.aggregate_by_mean('workers'), optax.sgd(0.5)), batch_of,
      lambda params, stats, x: {'mean': stats['mean'].get_value()},
      model_state=lambda params: stats, held_out=small.X, workdir=self.folder,
      steps=20, workers=engine.Workers(2))
    wanted = np.zeros(3)
    for step in range(20):
      wanted = 0.5 * wanted + 0.5 * batch_of(step)['x'].mean(0)
    np.testing.assert_allclose(
      state['model_state']['mean'].get_value(), wanted, 1e-4, 1e-6)
    last = records.read(self.folder / 'metrics.jsonl')[-1]
    np.testing.assert_allclose(last['mean'], wanted, 1e-4, 1e-6)
    self.assertLess(last['batch_loss'], 2)

  def test_means_over_any_number_of_examples(self):
    x = jnp.arange(1, 8.)
    for at_once in (1, 3, 7, 9):
      mean = engine.mean_over(
        lambda batch: {'sq': batch['x']**2, 'inverse': 1 / batch['x']},
        {'x': x}, at_once)
      np.testing.assert_allclose(mean['sq'], (x**2).mean(), 1e-6)
      np.testing.assert_allclose(mean['inverse'], (1 / x).mean(), 1e-6)


@pytest.mark.slow
class KillTest(FitCase):

  def test_killed_at_random_moments(self):
    rng = random.Random(0)
    store = checkpoints.Checkpoints(self.folder / 'cut/checkpoints')
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
      before = store.steps()
      process = subprocess.Popen(
        [sys.executable, '-m', 'tests.experiments.engine.fit_test',
         str(self.folder / 'cut'), '0.1'], cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)}, stderr=subprocess.DEVNULL)
      self.addCleanup(process.kill)
      deadline = time.monotonic() + 120
      while store.steps() == before:
        self.assertLess(time.monotonic(), deadline)
        time.sleep(0.02)
      time.sleep(rng.uniform(0, 0.3))
      process.send_signal(number)
      process.wait(timeout=60)
    self.assertLess(store.steps()[-1], STEPS)
    helpers.assert_same(run(self.folder / 'cut'), run(self.folder / 'whole'))
    self.assertEqual(self.log('cut'), self.log('whole'))


if __name__ == '__main__':
  if len(sys.argv) == 3 and not sys.argv[1].startswith('-'):
    pause = float(sys.argv[2])
    try:
      run(sys.argv[1], batches=lambda step: batch_of(step, pause),
          save_seconds=0.)
    except signals.Interrupted as stopped:
      sys.exit(stopped.exit_code)
  else:
    absltest.main()
