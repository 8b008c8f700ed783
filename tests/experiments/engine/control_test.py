"""A controller chooses the batch size of a run."""

import itertools
import math
import pathlib
import signal
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments import data, engine
from experiments.engine import checkpoints, records, signals
from gradiv.scaling import controllers
from tests import helpers
from tests.experiments.engine import small

ROOT = pathlib.Path(__file__).parents[3]
# Gradients are the examples themselves: ‖∇F‖² = 1 and tr Σ = 60, whatever the
# parameters are.
X = np.random.default_rng(0).normal(size=(512, 6))
X = (X - X.mean(0)) / X.std(0) * 10**.5 + np.eye(6)[0]
X = X.astype(np.float32)
LADDER = controllers.Ladder(8, 128)
STEPS, EVERY, SCAN = 1600, 160, 32
OPTIMIZER = optax.chain(gradiv.track_moments('workers'),
                        gradiv.aggregate_by_mean('workers'))


# By the noise scale, 60: from 8 to 64.
STEERED = engine.Control(
  controllers.NoiseScale(ladder=LADDER, rate_rule='sqrt'), .01)


def batches(size=8, pause=0.):
  """Draw the examples; a scan's take `pause` seconds."""
  drawn = engine.pipeline.in_memory({'x': X}, size, sampling='replacement')

  def fetch(steps):
    time.sleep(pause)
    return drawn.fetch(steps)

  return drawn._replace(fetch=fetch)


def run(workdir, control, *, steps=STEPS, every=EVERY, scan=SCAN,
        save_seconds=1e9, loss=None, **options):
  """Train on four workers; the gradient is the mean of the examples."""
  return engine.fit(
    lambda key: jnp.zeros(6),
    loss or (lambda params, batch, key: batch['x'].mean(0) @ params), **dict(
      optimizer=OPTIMIZER, batches=batches(), workdir=workdir,
      steps=engine.Schedule(steps, every, save_seconds, scan=scan),
      workers=engine.Workers(4), batch_size=control) | options)


def rate(num_examples):
  return .1 / (1 + num_examples / 1000)


class ControlCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))

  def log(self, name):
    return (self.folder / name / 'metrics.jsonl').read_bytes()


def growth(rows):
  """Find the step of the last record before the batch first grows."""
  return next(a['step'] for a, b in itertools.pairwise(rows)
              if a['batch_size'] < b['batch_size'])


class SteeredTest(ControlCase):
  """Nothing beyond the rungs that are used is compiled."""

  def loss(self, params, batch, key):
    self.traced.append(4 * len(batch['x']))
    return batch['x'].mean(0) @ params

  def cut(self, name):
    """Train after a run that a signal has ended at its first scan."""
    stop = signals.Stop()
    stop._signum = signal.SIGTERM
    with self.assertRaises(signals.Interrupted):
      run(self.folder / name, STEERED, stop=stop)

  def test_reaches_the_batch_size_compiles_its_ladder_and_resumes(self):
    self.traced = []
    whole = run(self.folder / 'whole', STEERED, loss=self.loss)
    rows = records.read(self.folder / 'whole/metrics.jsonl')
    sizes = [row['batch_size'] for row in rows]
    self.assertEqual((sizes[0], sizes[-1]), (8, 64))
    self.assertLen(self.traced, len(set(self.traced)))
    self.assertLessEqual(set(self.traced), {8, 16, 32, 64})
    self.check_rates(rows)
    self.check_resumed(whole, growth(rows))

  def check_rates(self, rows):
    for row in rows:
      self.assertEqual(row['examples'], 8 * row['step'])
      np.testing.assert_allclose(
        row['learning_rate'], .01 * (row['batch_size'] / 8)**.5, 1e-6)
    last = rows[-1]
    self.assertBetween(last['updates'], STEPS // 8, STEPS)
    # (1 + 60/8) / (1 + 60/64) of the first rate.
    np.testing.assert_allclose(last['predicted_rate'], .0439, .2)

  def check_resumed(self, whole, grown):
    """Cut twice, before and after the batch has grown, bit for bit."""
    self.cut('cut')
    failing = batches()
    def fetch(steps):
      if steps[0] > grown + EVERY:
        raise OSError('the disk is gone')
      return batches().fetch(steps)
    with self.assertRaisesRegex(OSError, 'the disk is gone'):
      run(self.folder / 'cut', STEERED, save_seconds=0.,
          batches=failing._replace(fetch=fetch))
    reached = checkpoints.Checkpoints(self.folder / 'cut/checkpoints').steps()
    self.assertGreater(reached[-1], grown)
    resumed = run(self.folder / 'cut', STEERED)
    helpers.assert_same(resumed, whole)
    self.assertEqual(self.log('cut'), self.log('whole'))

  def test_another_controller_is_another_run(self):
    self.cut('a')
    for other in (
        controllers.NoiseScale(ladder=LADDER, rate_rule='sqrt', multiple=2.),
        controllers.NormTest(ladder=LADDER, rate_rule='sqrt')):
      with self.assertRaisesRegex(engine.trainer.OtherRunError, 'control'):
        run(self.folder / 'a', engine.Control(other, .01))


class RampTest(ControlCase):

  def test_is_the_loop_that_one_would_write(self):
    """Examples, rate and growth are functions of the examples seen."""
    ramp = controllers.FixedRamp(
      ladder=controllers.Ladder(8, 32), starts=(0, 100, 600),
      rate_rule='linear')
    loss = lambda params, batch, key: jnp.mean(
      (batch['x'] @ params - batch['x'][:, 1])**2) / 40
    state = run(self.folder, engine.Control(ramp, rate), steps=160, loss=loss)
    order = data.order(0, [0], 8 * 160, len(X), sampling='replacement')[0]
    params, seen, sizes = np.zeros(6), 0, []
    while seen < 8 * 160:
      # What the ramp said when the last scan of 256 examples began.
      size = ramp.update(ramp.init(), seen // 256 * 256)[1]
      x = X[order[seen:seen + size]].astype(float)
      grad = 2 * (x @ params - x[:, 1]) @ x / size / 40
      params -= rate(seen) * size / 8 * grad
      seen += size
      sizes.append(size)
    np.testing.assert_allclose(state['params'], params, 1e-4, 1e-6)
    self.assertEqual(sizes, [8] * 32 + [16] * 32 + [32] * 16)
    last = records.read(self.folder / 'metrics.jsonl')[-1]
    self.assertEqual((last['updates'], last['batch_size']), (80, 32))

  def test_noise_and_order_do_not_depend_on_the_batch_size(self):
    """A state of the model folds in all examples, and each step's key."""
    def seen_by(ladder, starts):
      def loss(params, seen, batch, key):
        size = len(batch['x'])
        bits = jax.random.bits(key, dtype=jnp.uint32)
        first = jnp.where(seen['count'] == 64, bits, jnp.uint32(0))
        ids = batch['id'].astype(jnp.uint32)
        mixed = seen['mixed']
        for i in range(size):
          mixed = mixed * jnp.uint32(31) + ids[i]
        return params.sum() * 0., {'model_state': {
          'count': seen['count'] + size, 'mixed': mixed,
          'key': seen['key'] + first}}
      zero = lambda params: {
        name: jnp.zeros((), jnp.uint32) for name in ('count', 'mixed', 'key')}
      return run(
        self.folder / str(ladder.most), engine.Control(
          controllers.FixedRamp(ladder=ladder, starts=starts), .1),
        steps=32, every=32, loss=loss, model_state=zero, optimizer=OPTIMIZER,
        workers=engine.Workers(1),
        batches=engine.pipeline.in_memory(
          {'x': X, 'id': np.arange(len(X))}, 4),
      )['model_state']
    fixed = seen_by(controllers.Ladder(4, 4), (0,))
    grown = seen_by(controllers.Ladder(4, 16), (0, 0, 0))
    helpers.assert_same(grown, fixed)
    self.assertEqual(int(fixed['count']), 128)

  @pytest.mark.slow
  def test_one_size_is_a_run_without_a_controller(self):
    one = controllers.FixedRamp(ladder=controllers.Ladder(8, 8), starts=(0,))
    a = run(self.folder / 'a', engine.Control(one, .05), steps=160)
    b = run(self.folder / 'b', None, steps=160, optimizer=optax.chain(
      gradiv.track_moments('workers', batch_size=2),
      gradiv.aggregate_by_mean('workers'), optax.sgd(.05)))
    helpers.assert_close(a['params'], b['params'], 1e-6, 1e-7)


class RatesTest(ControlCase):

  def end(self, control, optimizer=OPTIMIZER):
    run(self.folder, control, steps=160, optimizer=optimizer)
    return records.read(self.folder / 'metrics.jsonl')[-1]

  def test_follows_the_prediction(self):
    control = engine.Control(
      controllers.NoiseScale(ladder=LADDER), .01, follows=True)
    last = self.end(control)
    self.assertGreater(last['batch_size'], 8)
    self.assertGreater(last['learning_rate'], .012)
    self.assertEqual(last['learning_rate'], last['predicted_rate'])

  @pytest.mark.slow
  def test_seesaw_brings_its_own(self):
    seesaw = controllers.Seesaw(
      ladder=LADDER, schedule=lambda n: .02 * .5 ** (n / 500))
    last = self.end(engine.Control(seesaw, None))
    self.assertEqual(last['batch_size'], 32)  # halved twice in 1,280
    np.testing.assert_allclose(last['learning_rate'], .01, 1e-6)

  def test_adascale_brings_its_own(self):
    tx = gradiv.scaling.scale_by_diversity(
      gradiv.track_moments('workers', decay=.9),
      gradiv.aggregate_by_mean('workers'), batch_size=8, scale=1,
      learning_rate=.01)
    ramp = controllers.FixedRamp(
      ladder=controllers.Ladder(8, 32), starts=(0, 0, 0))
    state = run(self.folder, engine.Control(ramp, None), steps=160,
                optimizer=tx)
    gains = float(state['opt_state'].progress) / 40
    # (1 + 60/8) / (1 + 60/32) = 2.96, of scale 4.
    self.assertBetween(gains, 2.2, 3.7)
    last = records.read(self.folder / 'metrics.jsonl')[-1]
    self.assertIsNone(last['learning_rate'])


NOISE = controllers.NoiseScale(ladder=LADDER)


class RefusedTest(ControlCase):

  @parameterized.named_parameters(
    ('no_ladder', lambda: engine.Control(16, .1), 'controller=16'),
    ('gram', lambda: engine.Control(
      controllers.InnerProductTest(ladder=LADDER), .1), r"\['gram'\]"),
    ('rate', lambda: engine.Control(NOISE, 0.), 'learning_rate=0.0'))
  def test_a_control(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  @parameterized.named_parameters(
    ('scan', {'scan': 8}, 'scan=8: must be'),
    ('workers', {'workers': engine.Workers(16)}, 'least=8 .*num_workers=16'),
    ('batches', {'batches': batches(16)}, 'batches of 16 examples'),
    ('tracker', {'optimizer': gradiv.aggregate_by_mean('workers')},
     'track_moments'),
    ('epoch', {'batch_size': engine.Control(controllers.DiveBatch(
      ladder=LADDER, denominator='published'), .1)}, 'measured='))
  def test_before_anything_is_trained(self, options, message):
    def loss(params, batch, key):
      self.fail('a step was traced')
    with self.assertRaisesRegex(ValueError, message):
      run(self.folder, engine.Control(NOISE, .1), loss=loss, **options)
    self.assertEmpty(list(self.folder.rglob('step_*')))

  def test_lanes(self):
    with self.assertRaisesRegex(ValueError, 'with 2 lanes'):
      small.program(control=engine.Control(NOISE, .1))

  def test_a_loss_that_is_not_known_yet_moves_nothing(self):
    control = engine.Control(controllers.LossDriven(ladder=LADDER), .1)
    state = control.init()
    self.assertEqual(control.look(state, None, math.nan, 0), state)
    state = control.look(state, None, 2., 256)
    self.assertEqual(control.look(state, None, .5, 512).controller.batch_size,
                     32)


if __name__ == '__main__':
  absltest.main()
