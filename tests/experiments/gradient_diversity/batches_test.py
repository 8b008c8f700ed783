"""The study of batch sizes, small: records, claims, figures, their formulas."""

import contextlib
import dataclasses
import io
import json
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized
from PIL import Image

import gradiv
from experiments.common import flags, study as study_lib
from experiments.gradient_diversity import __main__ as main, task, tracking
from experiments.gradient_diversity.batches import (
  analysis,
  claims,
  config as config_lib,
  study,
  windows,
)

SMALL = config_lib.Config(
  workdir='unset', train_examples=64, batch_sizes=(16, 32),
  replications=(1., 2.), learning_rates=(0.1, 0.4), passes=2, num_seeds=2,
  num_twins=2, reference_batch_size=16, num_workers=4, target_loss=2.0,
  looks=4)
# The records of a larger study, made up: [replication, batch, seed].
SIZES, SEEDS = (16, 64, 512, 1024), 8
LARGE = dataclasses.replace(
  SMALL, train_examples=1024, batch_sizes=SIZES, num_seeds=SEEDS, passes=48,
  num_twins=SEEDS)


def _moments(grads):
  """Compute ‖ḡ‖² and (1/n) Σ ‖g_i − ḡ‖² of gradients [n, ...] in float64."""
  flat = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1)
                         for x in jax.tree.leaves(grads)], 1)
  return np.sum(flat.mean(0)**2), np.sum(flat.var(0))


def _near(values, seed=0):
  """Scatter values [...] by 5 % over eight seeds, around them: [..., seed]."""
  rng = np.random.default_rng(seed)
  values = np.asarray(values, float)[..., None]
  noise = rng.normal(size=(*values.shape[:-1], SEEDS))
  return values * np.exp(0.05 * (noise - noise.mean(-1, keepdims=True)))


def _reduced(ratios, counts, growth, distance):
  """Make results of LARGE, r by r and batch by batch; distances by batch."""
  axes = ('replication', 'batch', 'seed')
  at = {'replication': [1., 2.], 'batch': list(SIZES)}
  label = lambda x: xr.DataArray(_near(x), at, axes)
  nothing = xr.Dataset({
    name: (('replication', 'seed', 'step'), np.ones((2, SEEDS, 3)))
    for name in ('loss', 'variance', 'sq_norm')})
  bands = xr.Dataset(coords={'source': ['workers', 'examples']})
  return analysis.Reduced(
    None, label(ratios), label(counts), label(growth), nothing, bands,
    xr.DataArray(_near(distance)[..., None], {'batch': list(SIZES)},
                 ('batch', 'seed', 'pass')))


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = dataclasses.replace(
      SMALL, workdir=str(cls.folder / 'run'),
      data_dir=str(cls.folder / 'data'))
    with contextlib.redirect_stdout(io.StringIO()) as out:
      cls.outcome = study_lib.run(study.Batches(), cls.config)
    cls.printed = out.getvalue()
    cls.summary = json.loads((cls.folder / 'run/summary.json').read_text())

  def test_records_and_summary(self):
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    self.assertLen(logs, 5)  # a sweep and twins for each size, and one more
    self.assertLen(self.summary['cells'], 4)
    for cell in self.summary['cells']:
      self.assertIn(cell['learning_rate'], self.config.learning_rates)
      self.assertGreater(cell['loss_ratio'][0], 0)
    for word in ('loss ratio', 'Distance of twin runs', 'B_S of each layer',
                 '16 examples', 'batch 16 ', 'figure: '):
      self.assertIn(word, self.printed)

  def test_figures(self):
    for name in ('collapse', 'loss_ratio', 'diversity', 'stability', 'claims'):
      with Image.open(self.folder / 'run' / f'{name}.png') as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_claims_are_written(self):
    written = json.loads((self.folder / 'run/claims.json').read_text())
    keys = {claim['key'] for claim in written['claims']}
    self.assertLessEqual({
      'order_1_2', 'waste_1', 'waste_2', 'prediction', 'coverage', 'bound'},
      keys)

  def test_again_nothing_is_trained(self):
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    stamps = [log.stat().st_mtime_ns for log in logs]
    with contextlib.redirect_stdout(io.StringIO()):
      study_lib.run(study.Batches(), self.config, report_only=True)
    self.assertEqual(
      json.loads((self.folder / 'run/summary.json').read_text()), self.summary)
    # Another target is another look at the same records.
    with contextlib.redirect_stdout(io.StringIO()):
      outcome = study_lib.run(
        study.Batches(), dataclasses.replace(self.config, target_loss=2.2),
        report_only=True)
    self.assertTrue((outcome.reduced.counts
                     <= self.outcome.reduced.counts).all())
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)

  def test_what_is_tracked_is_near_what_is_exact(self):
    run = self.outcome.reduced.tracked
    last = run.isel(step=-1)
    for prefix in ('', 'example_'):
      ratio = last[f'{prefix}variance'] / last['exact_variance']
      self.assertTrue(((ratio > 0.2) & (ratio < 5)).all(), ratio)
    np.testing.assert_allclose(
      run['diversity'] * 64,
      1 + run['exact_variance'] / run['exact_sq_norm'], 1e-3)
    for name in ('exact_sq_norm', 'exact_variance'):
      np.testing.assert_allclose(
        sum(run[f'{name}/{layer}'] for layer in ('dense_0', 'out')),
        run[name], 1e-5)
    self.assertEqual(list(self.summary['layers']),
                     ['dense_0', 'out', 'whole network'])
    self.assertAlmostEqual(
      self.summary['layers']['whole network']['2'],
      float(1 / np.mean(1 / (64 * last['diversity'][1]))), delta=0.1)


class TwinsTest(absltest.TestCase):

  def test_one_example_is_another(self):
    with tempfile.TemporaryDirectory() as folder:
      problem = task.Problem(dataclasses.replace(SMALL, data_dir=folder))
    rows = study.twin_rows(
      problem, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    for one, other in ((0, 2), (1, 3)):
      np.testing.assert_array_equal(rows[one], np.arange(64))
      changed = rows[one] != rows[other]
      self.assertEqual(changed.sum(), 1)
      self.assertEqual(rows[other][changed], 64)

  def test_distances(self):
    params = {'a': jnp.array([[1., 2.], [3., 0.], [1., 2.], [-3., 0.]]),
              'b': jnp.zeros((4, 1, 2))}
    np.testing.assert_allclose(
      study.distances(params)['distance'], [0, np.sqrt(2)] * 2)
    apart = {'a': jnp.array([[3., 0.], [0., 4.]])}
    np.testing.assert_allclose(study.distances(apart)['distance'], [1.] * 2)


class ExampleTest(parameterized.TestCase):

  @parameterized.parameters(64, 16)
  @pytest.mark.slow
  def test_whole_set_against_the_gradient_of_each_example(self, size):
    config = dataclasses.replace(SMALL, eval_batch_size=size)
    problem = task.Problem(config)
    params = problem.model.init(jax.random.key(0))
    examples = {name: x[:64] for name, x in problem.arrays.items()}

    def gradient(image, label):
      batch = {'image': image[None], 'label': label[None]}
      return jax.grad(problem.loss)(params, batch, None)

    grads = jax.vmap(gradient)(examples['image'], examples['label'])
    seen = jax.jit(problem.evaluate_exactly)(examples, params)
    for layer in ('dense_0', 'out'):
      signal, noise = _moments(grads[layer])
      np.testing.assert_allclose(
        seen[f'exact_sq_norm/{layer}'], signal, 1e-5)
      np.testing.assert_allclose(seen[f'exact_variance/{layer}'], noise, 1e-5)
    signal, noise = _moments(grads)
    np.testing.assert_allclose(seen['exact_sq_norm'], signal, 1e-5)
    np.testing.assert_allclose(seen['exact_variance'], noise, 1e-5)
    np.testing.assert_allclose(
      seen['diversity'] * 64, 1 + noise / signal, 1e-5)
    for name, value in problem.evaluate(examples, params).items():
      np.testing.assert_allclose(seen[name], value, 1e-6)

  @pytest.mark.slow
  def test_pooled_moments_are_those_of_all_examples(self):
    grads = jax.random.normal(jax.random.key(1), (4, 3, 5)) + 0.5

    def worker(g):
      within = gradiv.Moments(
        jnp.float32(3), jnp.float32(1), jnp.sum(g.mean(0)**2),
        jnp.sum(g.var(0)))
      mean = g.mean(0)
      moments = tracking.pool(
        within, gradiv.worker_moments(mean, 'workers'), 'workers')
      tx = tracking.track_examples('workers', decay=0.9)
      updates, state = tx.update(
        tracking.Measured(mean, within), tx.init(mean))
      # A step that is not finite leaves the averages alone.
      _, after = tx.update(
        tracking.Measured(mean * jnp.nan, within), state)
      return moments, updates, gradiv.read_moments(after).average

    moments, updates, average = jax.vmap(
      worker, axis_name='workers', out_axes=(None, 0, None))(grads)
    np.testing.assert_array_equal(updates, grads.mean(1))
    signal, noise = _moments(grads.reshape(12, 5))
    np.testing.assert_allclose(
      [moments.num_gradients, moments.batch_size, moments.sq_norm_of_mean,
       moments.mean_sq_deviation], [12, 1, signal, noise], 1e-5)
    # Unbiased: the deviation over n − 1.
    np.testing.assert_allclose(
      average, [signal - noise / 11, 12 / 11 * noise], 1e-5)

  def test_bands_are_as_wide_as_the_pairs_say(self):
    # ‖∇F‖² = 0, estimated from 12 gradients: by 2, by 3, and by 12 workers.
    grads = np.random.default_rng(0).normal(size=(20, 1000, 12, 6))

    def spread(workers):
      means = grads.reshape(20, 1000, workers, -1, 6).mean(3)
      square = np.sum(means.mean(2)**2, -1)
      noise = np.sum(means.var(2, ddof=1), -1)
      return np.std(square - noise / workers, 1)

    for workers in (2, 3):
      config = dataclasses.replace(
        SMALL, num_workers=workers, reference_batch_size=12,
        batch_sizes=(12, 24), train_examples=48)
      ratio = spread(workers) / spread(12)
      error = np.std(ratio, ddof=1) / np.sqrt(20)
      self.assertLess(error, 0.02)
      self.assertLess(abs(
        np.mean(ratio) - analysis.predicted_band_ratio(config)),
        4 * error)


class FormulaTest(parameterized.TestCase):

  def test_gradients_to_target(self):
    def count(loss, target):
      found = analysis.gradients_to_target(
        dataclasses.replace(SMALL, target_loss=float(target)),
        xr.DataArray(np.asarray(loss, float), {'pass': [0., 1., 2., 4.]}))
      return float(found) * 100 / 64  # of 100 examples

    falling = np.exp(-np.array([0., 1., 2., 4.]))
    self.assertAlmostEqual(count(falling, np.exp(-1.5)), 150)
    self.assertAlmostEqual(count(falling, np.exp(-3)), 300)
    self.assertEqual(count(falling, 2.0), 0)
    self.assertEqual(count(falling, 1e-9), np.inf)
    self.assertEqual(count([3., np.inf, np.inf, np.inf], 0.1), np.inf)
    # The first time counts, also where the loss rises again.
    self.assertAlmostEqual(count([1., np.exp(-2), 5., 5.], np.exp(-1)), 50)

  def test_tuned_rates_leave_out_what_diverged(self):
    loss = [[[[1., 0.5, 0.4]] * 2, [[1., 0.1, 0.1], [1., np.nan, np.nan]]]]
    run = xr.Dataset(
      {'loss': (('replication', 'rate', 'seed', 'step'), loss)},
      {'replication': [1.], 'rate': [0.1, 0.4], 'step': [0, 4, 8]})
    config = dataclasses.replace(
      SMALL, batch_sizes=(16,), replications=(1.,))
    found = analysis.tuned_rates(config, {'sweep/batch_00016': run})
    self.assertEqual(found.sel(replication=1, batch=16), 0.1)

  def test_prediction_at_a_constant_noise_scale(self):
    rho, b = 40., 16
    axes, shape = ('replication', 'seed', 'step'), (2, 2, 9)
    passes = np.arange(9.)
    run = xr.Dataset(
      {'loss': (axes, np.tile(4 * np.exp(-passes), (2, 2, 1))),
       'exact_variance': (axes, np.full(shape, 2 * rho)),
       'exact_sq_norm': (axes, np.full(shape, 2.))},
      {'step': 4 * passes, 'passes': ('step', passes)})
    counts = xr.DataArray(
      np.tile([100., 140.], (2, 2, 1)), {'batch': [16, 32]},
      ('replication', 'batch', 'seed'))
    found = analysis.predicted_growth(SMALL, counts, run)
    np.testing.assert_allclose(found.sel(batch=16), 1)
    np.testing.assert_allclose(found.sel(batch=32), (32 + rho) / (b + rho))


class WindowTest(parameterized.TestCase):

  def test_constant_steps_give_their_own_ratio(self):
    found = windows.band(np.full((2, 50), 3.), np.full((2, 50), 9.))
    np.testing.assert_allclose(found.value[:, 1:], 0.25, 1e-5)
    # No spread, no width; one step alone says nothing.
    for end in (found.low, found.high, found.bound):
      np.testing.assert_allclose(end[:, 20:], 0.25, 1e-3)  # rounding
    np.testing.assert_array_equal(found.low[:, 0], 0)
    np.testing.assert_array_equal(found.high[:, 0], 1)
    self.assertTrue((found.window[:, 20:] > 0).all())

  def test_replays_what_is_tracked(self):
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(1, 1, (2, 40)), rng.gamma(9, 1, (2, 40))
    found = windows.band(signal, noise)
    tx = gradiv.track_moments()
    state = tx.init(())
    update = jax.jit(lambda s, m: tx.update((), s, moments=m)[1])
    for g, s in zip(signal[1], noise[1]):
      state = update(state, gradiv.Moments(
        *np.float32([8, 1, g + s / 8, s * 7 / 8])))
    reading = gradiv.read_moments(state)
    np.testing.assert_allclose(
      1 / found.bound[1, -1], reading.batch_size_at_least, 1e-3)
    np.testing.assert_allclose(found.value[1, -1], (
      gradiv.inverse_batch_size_bound(reading.estimate)), 1e-3)
    self.assertEqual(found.window[1, -1], reading.window)

  def test_the_truth_is_that_of_the_same_window(self):
    """Without noise the estimates are exact, also while all falls."""
    t = np.arange(200.)
    signal, noise = np.exp(-.02 * t)[None], 9 * np.exp(-.01 * t)[None]
    found = windows.band(signal, noise)
    np.testing.assert_allclose(
      windows.exact(signal, noise, found)[:, 1:], found.value[:, 1:], 1e-3)

  def test_bands_begin_with_the_shortest_full_window(self):
    axes = ('replication', 'seed', 'step')
    names = ('step_sq_norm', 'step_variance', 'example_step_sq_norm',
             'example_step_variance', 'exact_sq_norm', 'exact_variance')
    for steps, first in ((41, 16), (9, 8)):
      run = xr.Dataset(
        {name: (axes, np.full((1, 2, steps), 2.)) for name in names},
        {'step': np.arange(steps), 'passes': ('step', np.arange(1. * steps))})
      bands = analysis.windowed(run)
      np.testing.assert_array_equal(bands['step'], np.arange(first, steps))
      np.testing.assert_allclose(bands['exact'], 0.5)
    self.assertEqual(analysis.band_ratio(
      bands.assign(low=0 * bands['low'], high=1 + 0 * bands['high'])), 1)

  def test_advice_is_that_of_the_last_record(self):
    found = windows.band(np.full(50, 1.), np.full(50, 99.))
    bands = xr.Dataset({name: ('step', x) for name, x in
                        found._asdict().items()})
    for window, words in ((16, 'far below B_S, 100'), (0, 'at least 100')):
      self.assertIn(words, str(analysis.advice(
        SMALL, bands.assign(
          window=0 * bands['window'] + window,
          steps_until_known=bands['steps_until_known'] * np.nan))))


class ClaimTest(parameterized.TestCase):

  def judged(self, ratios=((1, 4, 20, 60), (1, 4, 40, 99)), counts=None,
             growth=((1, 2, 12, 24),) * 2, distance=(1., 1., 2., 4.)):
    counts = 1000 * np.array(growth) if counts is None else counts
    found = claims.claims(LARGE, _reduced(ratios, counts, growth, distance))
    return {claim.key: claim for claim in found}

  def test_what_the_paper_says_holds(self):
    found = self.judged()
    self.assertEqual(
      {claim.verdict for claim in found.values()}, {'holds'}, found)
    self.assertAlmostEqual(found['order_1_2'].measured.value, 2, delta=0.1)
    self.assertAlmostEqual(found['order_1_2'].paper, 3.6 / 2.2)
    self.assertAlmostEqual(found['distance_512_1024'].paper, 2.0 / 0.41)

  @parameterized.parameters(
    ('order_1_2', {'ratios': ((1, 4, 40, 99), (1, 4, 20, 60))}),
    ('waste_1', {'counts': ((900,) * 2 + (400, 300),) * 2}),
    ('prediction', {'counts': ((1000, 2000, 12000, 12000),) * 2}),
    ('distance_64_512', {'distance': (1., 1., 0.5, 0.4)}))
  def test_the_opposite_fails(self, key, changed):
    self.assertEqual(self.judged(**changed)[key].verdict, 'fails')

  def test_one_cell_far_from_its_prediction_is_found(self):
    counts = 1000. * np.array([[1, 2, 12, 24], [1, 2, 6.5, 24]])
    found = self.judged(counts=counts)['prediction']
    self.assertIn('r = 2, batch 512', found.how)
    self.assertEqual(found.verdict, 'fails')

  def test_the_same_in_all_is_open(self):
    found = self.judged(ratios=((1, 4, 20, 60),) * 2,
                        distance=(1., 1., 1., 1.))
    self.assertEqual(found['order_1_2'].verdict, 'open')
    self.assertEqual(found['distance_64_512'].verdict, 'open')

  def test_a_target_that_is_not_reached_is_unknown(self):
    found = self.judged(counts=((1000, 2000, math.inf, math.inf),) * 2)
    self.assertEqual(found['waste_1'].verdict, 'unknown')
    self.assertIn('4 of 6 cells', found['prediction'].note)


class FlagTest(parameterized.TestCase):

  @parameterized.parameters(
    ({'decay': 1.}, 'between 0 and 1'), ({'looks': 0}, 'at least 1'),
    ({'batch_sizes': (16, 48)}, '--batch_sizes=16,48: each size must divide'))
  def test_bad_values(self, changed, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      dataclasses.replace(SMALL, **changed)

  def test_the_study_is_chosen_on_the_command_line_or_in_a_file(self):
    with tempfile.NamedTemporaryFile('w', suffix='.flags') as file:
      file.write('# a comment\n--study=mechanisms\n--num_workers=2\n')
      file.flush()
      flagfile = f'--flagfile={file.name}'
      self.assertEqual(main.chosen(['main', '--workdir=x']), 'batches')
      self.assertEqual(
        main.chosen(['main', '--workdir=x', flagfile]), 'mechanisms')
      self.assertEqual(
        main.chosen(['main', flagfile, '--study=batches']), 'batches')
    self.assertEqual(main.chosen(['main', '--flagfile=gone']), 'batches')

  def test_a_report_is_of_the_study_in_the_folder(self):
    with tempfile.TemporaryDirectory() as folder:
      report = ['main', '--report', f'--workdir={folder}']
      self.assertEqual(main.chosen(report), 'batches')  # nothing is there
      pathlib.Path(folder, 'config.json').write_text(
        '{"flags": {"study": "mechanisms"}}')
      self.assertEqual(main.chosen(report), 'mechanisms')
      self.assertEqual(main.chosen([*report, '--study=batches']), 'batches')


if __name__ == '__main__':
  absltest.main()
