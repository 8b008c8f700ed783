"""The fourth paper, small: arms, controls, records, summary and figures."""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized
from PIL import Image

import gradiv
from experiments.agreement_filtering import (
  arms as agreement_arms,
  config as agreement_filtering,
  task,
)
from experiments.agreement_filtering.study import Filtering
from experiments.common import flags, parsing, study
from gradiv import weightings
from tests import helpers
from tests.experiments.data import fakes

SMALL = agreement_filtering.Config(
  workdir='unset', noise_rates=(0., 0.5), thresholds=(0.5, 1.),
  control_threshold=0.5, learning_rates=(0.003, 0.1), steps=12, num_records=3,
  num_seeds=2, num_workers=3, model_options='{"hidden": [8]}')


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
      cls.outcome = study.run(Filtering(), cls.config)
    cls.printed = out.getvalue()
    cls.reduced = cls.outcome.reduced
    cls.summary = json.loads((cls.folder / 'run/summary.json').read_text())

  def test_every_arm_has_its_cells(self):
    names = [arm.name for arm in agreement_arms.list_arms(self.config)]
    self.assertEqual(set(names), {
      *weightings.COMBINE, 'mean', 'geometric_median', 'random',
      'equal_updates', 'mean_clean', 'running_mean_clean'})
    self.assertLen(self.summary['cells'], 2 * (4 * 2 + 6))
    for cell in self.summary['cells']:
      self.assertIn(cell['learning_rate'], self.config.learning_rates)
      self.assertBetween(cell['test'][0], 0, 1)
      self.assertBetween(cell['skipped'][0], 0, 1)
      self.assertEqual(cell['memorized'][0] is None, cell['noise'] == 0)
    for word in ('Test accuracy', 'beyond the mean', 'Steps skipped'):
      self.assertIn(word, self.printed)

  def test_the_mean_skips_nothing_and_the_strict_filter_much(self):
    skipped = {
      (c['arm'], c['threshold'], c['noise']): c['skipped'][0]
      for c in self.summary['cells']}
    self.assertEqual(skipped['mean', 2., 0.5], 0)
    self.assertEqual(skipped['geometric_median', 2., 0.5], 0)
    self.assertGreater(skipped['running_mean', 0.5, 0.5],
                       skipped['running_mean', 1., 0.5])

  def test_controls_match_the_filter(self):
    """As many updates exactly; in the mean, as many let through."""
    load = lambda name, **at: self.reduced.runs[name]['sizes'].isel(
      step=-1).sel(at).squeeze('threshold', drop=True).values
    sizes = self.reduced.runs['running_mean']['sizes'].isel(step=-1).sel(
      threshold=self.config.control_threshold).values
    equal = load('equal_updates')
    np.testing.assert_array_equal(equal[..., 0], sizes[..., 0])
    np.testing.assert_array_equal(equal[..., 3], sizes[..., 1:].sum(-1))
    blind = load('random')
    # 16 lanes of 12 steps, each drawn: five standard errors.
    gap = (blind - sizes).sum((0, 1, 2))
    self.assertLess(np.abs(gap).max(), 5 * np.sqrt(12 * 16 / 4))
    self.assertEqual(blind[..., 1].sum(), 0)

  def test_rates_are_chosen_on_validation_data(self):
    for name, run in self.reduced.runs.items():
      final = run['validation'].isel(step=-1).mean('seed')
      best = run.rate.values[final.argmax('rate').values]
      np.testing.assert_array_equal(self.reduced.tuned[name].rate, best)
      for noise in run.noise.values:
        cell = next(c for c in self.summary['cells'] if (
          c['arm'], c['noise'], c['threshold']) == (
            name, noise, run.threshold.values[0]))
        chosen = run['test'].sel(noise=noise, rate=cell['learning_rate'])
        self.assertAlmostEqual(
          cell['test'][0], float(chosen.isel(threshold=0).mean()))

  def test_claims(self):
    claims = {claim.key: claim for claim in self.outcome.claims}
    self.assertLen(claims, 6)
    run = lambda name: self.reduced.runs[name].isel(rate=-1, step=-1).sel(
      noise=0.5)['validation']
    gain = run('running_mean').sel(threshold=0.5) - run('mean').isel(
      threshold=0)
    self.assertAlmostEqual(claims['mean_50'].measured.value,
                           float(gain.mean()))
    self.assertEqual(claims['orthogonal'].allowed, (0.9, 1.1))

  def test_figures(self):
    names = [*Filtering.figures, 'claims']
    figures = sorted((self.folder / 'run').glob('*.png'))
    self.assertEqual([f.stem for f in figures], sorted(names))
    for figure in figures:
      with Image.open(figure) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_again_nothing_is_trained(self):
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    stamps = [log.stat().st_mtime_ns for log in logs]
    for is_report in (False, True):
      with contextlib.redirect_stdout(io.StringIO()):
        again = study.run(Filtering(), self.config, report_only=is_report)
      self.assertEqual(again.claims, self.outcome.claims)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)


class ProblemTest(absltest.TestCase):

  def test_splits_do_not_meet_and_noise_is_as_asked(self):
    with tempfile.TemporaryDirectory() as folder:
      problem = task.Task(
        dataclasses.replace(SMALL, data_dir=folder))
    images = [np.asarray(x).reshape(len(x), -1) for x in (
      problem.arrays['image'], problem.arrays['validation']['image'],
      problem.test.arrays['image'])]
    self.assertEqual([len(x) for x in images], [1149, 288, 360])
    held = {row.tobytes() for x in images[1:] for row in x}
    self.assertEmpty(held & {row.tobytes() for row in images[0]})
    for seed in (0, 1):
      wrong = problem.labels(0.5, seed) != problem.clean
      self.assertEqual(wrong.sum(), round(0.5 * 1149))
    self.assertTrue((problem.labels(0.5, 0) != problem.labels(0.5, 1)).any())

  def test_micro_batches_are_balanced_by_the_labels_of_the_arm(self):
    with tempfile.TemporaryDirectory() as folder:
      problem = task.Task(
        dataclasses.replace(SMALL, data_dir=folder))
    arms = {arm.name: arm for arm in agreement_arms.list_arms(SMALL)}
    lanes = {'noise': np.array([0., 0.5]), 'threshold': np.full(2, 2.),
             'rate': np.full(2, 0.003), 'seed': np.zeros(2, int)}
    for name, labels in (('mean', problem.labels(0.5, 0)),
                         ('mean_clean', problem.clean)):
      program = problem.program(arms[name], lanes)
      rows = program.fetch(np.arange(5))[int(program.lanes['order'][1])]
      drawn = labels[rows].reshape(5 * 3, 10)
      np.testing.assert_array_equal(
        np.sort(drawn, 1), np.tile(np.arange(10), (15, 1)))


class FakeHumanLabels(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Two labels beside the true one, as TFDS has cifar100_n."""

  name = 'cifar100_n'
  VERSION = tfds.core.Version('1.0.1')

  def _info(self):
    label = lambda n: tfds.features.ClassLabel(num_classes=n)
    features = {'image': tfds.features.Image(shape=(8, 8, 3)),
                'label': label(4), 'coarse_label': label(2),
                'noise_label': label(4), 'worker_time': np.float32}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(80),
            'test': self._generate_examples(20)}

  def _generate_examples(self, number):
    rng = np.random.default_rng(number)
    for key in range(number):
      yield key, {
        'image': fakes.encoded(
          rng.integers(0, 256, (8, 8, 3), np.uint8)), 'label': key % 4,
        'coarse_label': key % 2, 'noise_label': (key + (key % 5 == 0)) % 4,
        'worker_time': 1.}


class HumanLabelsTest(fakes.Folder):

  def test_trains_on_the_noisy_label_and_judges_by_the_true_one(self):
    self.make(FakeHumanLabels)
    problem = task.Task(dataclasses.replace(
      SMALL, dataset='cifar100_n', data_dir=str(self.root), noise_rates=(0.,),
      noisy_label_key='noise_label', validation_examples=20,
      train_examples=50))
    wrong = problem.labels(0., 0) != problem.clean
    self.assertLen(problem.clean, 50)
    self.assertBetween(wrong.sum(), 3, 20)
    self.assertTrue(((problem.labels(0., 0) - problem.clean) % 4
                     == wrong).all())


class ArmsTest(parameterized.TestCase):

  def test_blind_filter_draws_sizes_by_stage(self):
    sizes = jnp.float32([[5, 0, 5, 0, 0], [0, 0, 0, 0, 10]])
    rule = agreement_arms.random_subset(sizes, every=100)
    gram, present = jnp.eye(4), jnp.ones(4, bool)

    def step(count, key):
      weights, count = rule.step(gram, present, count, key)
      return count, weights

    _, weights = jax.lax.scan(
      step, rule.init(4), jax.random.split(jax.random.key(0), 200))
    weights = np.asarray(weights)
    helpers.assert_mean(weights[:100].sum(1), 0.5)
    self.assertEqual(set(np.unique(weights[:100])), {0., 0.5})
    # Whom it lets through is drawn evenly.
    for worker in weights[:100].T:
      helpers.assert_mean(worker > 0, 0.25)
    np.testing.assert_array_equal(weights[100:], 0.25)

  def test_blind_filter_lets_nothing_through_that_is_not_finite(self):
    rule = agreement_arms.random_subset(jnp.float32([[0, 0, 1, 0]]), 1)
    present = jnp.array([True, False, True])
    for i in range(5):
      weights, _ = rule.step(
        jnp.eye(3), present, rule.init(3), jax.random.key(i))
      np.testing.assert_array_equal(weights, [.5, 0, .5])

  def test_optimizer_stands_still_after_enough_updates(self):
    arm = agreement_arms.Arm(
      'equal_updates', '', lambda lane: agreement_arms.mean_until(
        lane['max_updates']))
    tx = agreement_arms.make_optimizer(
      {'max_updates': 3, 'rate': 0.1}, arm, key=jax.random.key(0),
      axis_name='workers', num_workers=2, momentum=0.9, weight_decay=0.1)
    step = helpers.step_of(optax.GradientTransformation(
      tx.init, lambda g, s: tx.update(g, s, jnp.ones(3))))
    state, moved = tx.init(jnp.ones(3)), []
    for _ in range(5):
      updates, state = step(np.ones((2, 3), 'f'), state)
      moved.append(bool(jnp.any(updates != 0)))
    self.assertEqual(moved, [True] * 3 + [False] * 2)
    read = agreement_arms.read(state)
    self.assertEqual(read['sizes'].tolist(), [2, 0, 3])
    self.assertAlmostEqual(float(read['cosine']), 5, 4)

  def test_the_optimizer_is_that_of_the_paper(self):
    """Decay is added to the gradient, before Nesterov's momentum."""
    arm = agreement_arms.Arm(
      'mean', '', lambda lane: agreement_arms.plain_mean())
    tx = agreement_arms.make_optimizer(
      {'rate': 0.1}, arm, key=jax.random.key(0), axis_name='workers',
      num_workers=2, momentum=0.9, weight_decay=0.01)
    rng = np.random.default_rng(0)
    p = velocity = np.zeros(4)
    params, state = jnp.zeros(4), tx.init(jnp.zeros(4))
    step = gradiv.map_workers(
      lambda g, s, p: tx.update(g, s, p), 'workers', in_axes=(0, None, None),
      out_axes=None)
    for _ in range(4):
      g = rng.normal(size=(2, 4)).astype('f')
      updates, state = step(g, state, params)
      params = optax.apply_updates(params, updates)
      slope = g.mean(0) + 0.01 * p
      velocity = 0.9 * velocity + slope
      p = p - 0.1 * (slope + 0.9 * velocity)
      np.testing.assert_allclose(params, p, 1e-4, 1e-6)


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    (('--num_workers=1',), '--num_workers=1: must be at least 2'),
    (('--noise_rates=0.4,0.2',), 'rising'),
    (('--noise_rates=0,1.2',), 'shares from 0 to 1'),
    (('--noisy_label_key=noise_label',), '0 alone'),
    (('--combines=halving',), 'running_mean among them'),
    (('--combines=running_mean,median',), 'some of'),
    (('--thresholds=3',), 'cosine distances from 0 to 2'),
    (('--control_threshold=0.5',), 'one of --thresholds'),
    (('--num_records=7',), 'a divisor of --steps=1000'),
    (('--eval_batch_size=0',), '--eval_batch_size=0: must be at least 1'),
    (('--train_examples=-1',), '--train_examples=-1'),
    (('--momentum=1',), '--momentum=1.0'),
    (('--weight_decay=-1',), '--weight_decay=-1.0'),
    (('--per_class=0',), '--per_class=0'))
  def test_values_out_of_range(self, argv, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(agreement_filtering.Config,
                    ['agreement_filtering', *argv])

  @parameterized.parameters(
    (dict(validation_examples=1437), '--validation_examples=1437: must be '
     'below the 1437'),
    (dict(train_examples=1150), '--train_examples=1150: must be at most the '
     '1149'))
  def test_more_than_there_is(self, changed, message):
    with tempfile.TemporaryDirectory() as folder:
      with self.assertRaisesRegex(flags.UsageError, message):
        task.Task(dataclasses.replace(SMALL, data_dir=folder, **changed))

  def test_the_ways_to_filter_are_those_of_the_library(self):
    self.assertEqual(agreement_filtering.COMBINES, weightings.COMBINE)


if __name__ == '__main__':
  absltest.main()
