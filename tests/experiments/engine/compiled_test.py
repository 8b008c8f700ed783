"""The compiled programs: what they donate, hold, and when they end."""

import contextlib
import io
import pathlib
import signal
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest

import gradiv
from experiments.engine import compiled, records, signals, trainer
from tests import helpers
from tests.experiments.engine import small

WORKERS = trainer.Workers(2)


class DonationTest(absltest.TestCase):

  def rows(self):
    return WORKERS.split(small.program().fetch(np.arange(2)))

  def test_the_state_is_donated(self):
    programs = compiled.build(small.program(), WORKERS)
    state = programs.create()
    after, _ = programs.scan(self.rows(), state, np.int32(0))
    self.assertTrue(all(x.is_deleted() for x in jax.tree.leaves(state)))
    self.assertFalse(any(x.is_deleted() for x in jax.tree.leaves(after)))

  def test_no_memory_is_taken_for_the_new_state(self):
    program = small.program()
    scan = compiled._scan(program, WORKERS, WORKERS.over_lanes)
    state = compiled.build(program, WORKERS).create()
    memory = scan.lower(self.rows(), program.data, program.lanes, state,
                        np.int32(0)).compile().memory_analysis()
    self.assertEqual(memory.alias_size_in_bytes,
                     sum(x.nbytes for x in jax.tree.leaves(state)))

  def test_a_state_that_shares_arrays_with_the_lanes_can_be_donated(self):
    """The start, the lanes and two leaves of the state are one array."""
    program = small.program(
      init=lambda lane: {'w': lane['start']},
      model_state=lambda lane, params: {'w': params['w'], 'again': params['w']},
      loss=lambda params, model, x, key: (
        small.loss(params, x, key), {'model_state': model}),
      evaluate=lambda arrays, lane, params, model: {'norm': model['w'].sum()})
    program.lanes['start'] = jnp.ones((2, 3))
    programs = compiled.build(program, WORKERS)
    state = programs.create()
    for first in (0, 2, 4):
      state, _ = programs.scan(self.rows(), state, np.int32(first))
    np.testing.assert_array_equal(program.lanes['start'], np.ones((2, 3)))
    np.testing.assert_array_equal(state['model_state']['again'],
                                  np.ones((2, 3)))


class DataTest(absltest.TestCase):

  def test_an_optimizer_that_needs_the_data_gets_them_as_an_argument(self):
    """And they are no constant of the program."""
    def pull(updates, state, params, *, data, **extra):
      del extra
      return jax.tree.map(
        lambda g: g + data.mean(0), updates), state

    def make_optimizer(lane):
      return optax.chain(
        gradiv.aggregate_by_mean('workers'),
        optax.GradientTransformationExtraArgs(lambda params: (), pull),
        optax.sgd(lane['learning_rate']))

    program = small.program(make_optimizer=make_optimizer)
    programs = compiled.build(program, WORKERS)
    rows = WORKERS.split(program.fetch(np.arange(1)))
    state = programs.create()
    before = np.asarray(state['params']['w'][0])
    traced = jax.make_jaxpr(programs.scan)(rows, state, np.int32(0))
    inner, = (e for e in traced.eqns if e.primitive.name in ('jit', 'pjit'))
    self.assertEmpty(inner.params['jaxpr'].consts)
    state, _ = programs.scan(rows, state, np.int32(0))
    x = small.X[small.program().fetch(np.arange(1))[0, 0]]
    grad = jax.grad(small.loss)({'w': before}, x, None)['w']
    np.testing.assert_allclose(
      state['params']['w'][0], before - 0.1 * (grad + small.X.mean(0)), 1e-5)


class CacheTest(absltest.TestCase):

  def end(self, program):
    """Create a state, take two steps, evaluate."""
    programs = compiled.build(program, WORKERS)
    state, _ = programs.scan(
      WORKERS.split(program.fetch(np.arange(2))), programs.create(),
      np.int32(0))
    return programs.evaluate(state)

  def test_programs_of_other_lanes_and_data_are_traced_once(self):
    traced, cache = [], {}

    def loss(params, x, key):
      traced.append(x.shape)
      return small.loss(params, x, key)

    ends = []
    for rates, scale in (((0.1, 0.2), 1), ((0.3, 0.4), 2)):
      changes = {'rates': rates, 'data': scale * jnp.asarray(small.X)}
      ends.append(self.end(small.program(loss=loss, cache=cache, **changes)))
      helpers.assert_same(ends[-1], self.end(small.program(**changes)))
    self.assertLen(traced, 1)
    self.assertFalse(np.array_equal(ends[0]['norm'], ends[1]['norm']))


class DivergedTest(absltest.TestCase):

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def train(self, folder, **kwargs):
    with contextlib.redirect_stderr(io.StringIO()) as err:
      small.train(folder, rates=(np.inf, np.nan), **kwargs)
    return err.getvalue()

  def test_a_run_ends_where_no_lane_is_finite(self):
    folder = self.folder()
    said = 'at step 4 of 24 no training has finite parameters'
    self.assertIn(said, self.train(folder))
    rows = records.read(folder / 'metrics.jsonl')
    self.assertEqual([r['step'] for r in rows], [0, 4, 8, 12, 16, 20, 24])
    for row in rows[2:]:
      self.assertEqual(row, {'step': row['step'], 'norm': [None, None],
                             'batch_loss': [None, None]})
    timed = records.read(folder / 'timing.jsonl')
    self.assertEqual(timed[-1]['step'], 4)
    self.assertNotIn(said, self.train(folder))  # finished

  def test_cut_off_just_before_it_ends_in_the_same_records(self):
    """The checkpoint of step 4 holds lanes of which none is finite."""
    whole, cut = self.folder(), self.folder()
    self.train(whole)
    schedule = trainer.Schedule(4, 4, 0.)
    self.train(cut, schedule=schedule)
    self.train(cut)
    self.assertEqual(*((f / 'metrics.jsonl').read_bytes()
                       for f in (cut, whole)))

  def test_one_finite_lane_is_trained_on(self):
    folder = self.folder()
    small.train(folder, rates=(0.1, np.nan))
    last = records.read(folder / 'metrics.jsonl')[-1]
    self.assertIsNotNone(last['norm'][0])


class OutputsTest(absltest.TestCase):

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  @pytest.mark.slow
  def test_times_are_apart_from_metrics(self):
    a, b = self.folder(), self.folder()
    small.train(a)
    stop = signals.Stop()
    stop._signum = signal.SIGTERM
    with self.assertRaises(signals.Interrupted):
      small.train(b, stop=stop, cache={})
    small.train(b, cache={})  # as another process would
    self.assertEqual(*((f / 'metrics.jsonl').read_bytes() for f in (a, b)))
    timed = records.read(b / 'timing.jsonl')
    self.assertEqual([r['step'] for r in timed], [4, 8, 12, 16, 20, 24])
    self.assertEqual([r['step'] for r in timed if r.get('compiles')], [4, 8])
    for row in timed:
      np.testing.assert_allclose(
        row['examples_per_second'] / row['steps_per_second'],
        2 * small.BATCH, 1e-4)  # of two lanes
      # Forward [b, 3] @ [3] and, for the gradient, its transpose.
      np.testing.assert_allclose(
        row['flops_per_second'] / row['steps_per_second'],
        2 * 2 * (2 * 3 * small.BATCH), 1e-4)

  @pytest.mark.slow
  def test_a_trace_of_some_steps(self):
    folder = self.folder()
    small.train(folder, options={'profile': (8, 10)})
    self.assertNotEmpty(list((folder / 'profile').rglob('*.xplane.pb')))

  def test_another_value_of_a_name_that_may_change(self):
    folder = self.folder()
    config = {'rate': 1, 'lanes_at_once': 0}
    small.train(folder, trainer.Schedule(4, 4), config=config)
    with self.assertRaisesRegex(trainer.OtherRunError, 'lanes_at_once: 0'):
      small.train(folder, config=config | {'lanes_at_once': 1})
    allowed = {'allow_changed': ('lanes_at_once',)}
    with self.assertRaisesRegex(trainer.OtherRunError, 'rate: 1 there'):
      small.train(folder, config={'rate': 2, 'lanes_at_once': 1},
                  options=allowed)
    state = small.train(folder, config=config | {'lanes_at_once': 1},
                        options=allowed)
    helpers.assert_same(state, small.train(self.folder()))


if __name__ == '__main__':
  absltest.main()
