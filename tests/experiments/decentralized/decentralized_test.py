"""The third paper, small: a run that is cut off, arms, records, flags."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

import gradiv
from experiments import models
from experiments.common import flags
from experiments.decentralized import (
  __main__ as main,
  analysis,
  arms as decentralized_arms,
  config as decentralized,
  study,
  task,
)
from experiments.engine import records, signals, trainer
from gradiv.decentralized import topology
from tests import helpers

SMALL = decentralized.Config(
  workdir='unset', domains=('images',), num_workers=3, num_seeds=2,
  batch_sizes=(12, 6), topologies=('random', 'complete'), num_matchings=2,
  steps=4, num_records=2, measure_every=1, imposed_window=1,
  learning_rates=(0.5, 4.), focus_rate=4., lamb_rates=(0.01,),
  target_accuracy=0.1, measured_examples=64, eval_batch_size=64,
  model='logistic', model_options='{}', text_length=64, text_batch_size=6,
  text_steps=4, text_seeds=2, text_examples=8, text_learning_rates=(1.,),
  text_model_options='{"embed": 2, "hidden": 3}')


def find(config, *args):
  return analysis.find(config, *args)


class StopAtFirstLook(signals.Stop):
  """A signal that comes while the first chunk is under way."""

  def __bool__(self):
    self._signum = 2
    return True


@pytest.mark.slow
class RunTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = dataclasses.replace(
      SMALL, workdir=str(cls.folder / 'run'),
      data_dir=str(cls.folder / 'data'), batch_sizes=(12,),
      topologies=('random',))
    try:  # cut off in the middle of the first arm
      study.train_all(cls.config, StopAtFirstLook())
    except signals.Interrupted:
      cls.cut = records.read(cls.log('dpsgd_random'))
      cls.begun = {log.parent.name
                   for log in (cls.folder / 'run').rglob('metrics.jsonl')}
    with contextlib.redirect_stdout(io.StringIO()) as out:
      cls.summary = main.run(cls.config)
    cls.printed = out.getvalue()

  @classmethod
  def log(cls, name):
    arm = find(cls.config, name)
    return cls.folder / 'run' / arm.part / 'metrics.jsonl'

  def test_a_run_that_was_cut_off_goes_on(self):
    """Series and parameters of each worker's own: as those of a whole run."""
    self.assertEqual([row['step'] for row in self.cut], [0, 2])
    self.assertLessEqual(self.begun, {'dpsgd_random', 'ssgd'})
    arm = find(self.config, 'dpsgd_random')
    workers = trainer.Workers(3)
    problem = task.Problem(self.config, 'images')
    trainer.train(problem.program(arm, workers.axis_name),
                  trainer.Schedule(4, 2), self.folder / 'whole', config={},
                  workers=workers)
    self.assertEqual(records.read(self.log('dpsgd_random')),
                     records.read(self.folder / 'whole' / 'metrics.jsonl'))

  def test_every_arm_has_its_cells(self):
    found = {(c['arm'], c['domain'], c['batch_size'], c['learning_rate'])
             for c in self.summary['cells']}
    four = 'ssgd', 'ssgd_noise', 'imposed', 'dpsgd_random'
    self.assertEqual(found, {
      *((name, 'images', 12, rate) for name in four for rate in (0.5, 4.)),
      ('lamb', 'images', 12, 0.01)})
    self.assertLen(self.summary['claims'], 11)
    for each in self.summary['claims']:
      self.assertIn(each['claim'], self.printed)
    self.assertIn('SSGD, α_e of DPSGD imposed', self.printed)

  def test_who_starts_alike_goes_alike_at_first(self):
    """At step 0 all parameters are equal: a ratio near 1, and no spread."""
    runs = {name: analysis.load(self.config, find(
      self.config, name)) for name in ('ssgd', 'dpsgd_random', 'ssgd_noise')}
    first = {name: run['ratio'][..., 0] for name, run in runs.items()}
    np.testing.assert_allclose(first['ssgd'], first['dpsgd_random'], 1e-4)
    self.assertGreater(
      np.abs(first['ssgd'] - first['ssgd_noise']).min(), 1e-4)
    for name, run in runs.items():
      decentralized = name == 'dpsgd_random'
      self.assertLess(run['spread'][..., 0].max(), 1e-10)  # of rounding
      self.assertEqual(run['spread'].max() > 1e-6, decentralized)
      self.assertEqual(
        (run['across_spread'][..., 1:] > 0).all(), name != 'ssgd')

  def test_the_imposed_ratio_is_that_of_dpsgd(self):
    ratio = analysis.imposed_ratio(
      self.config, find(self.config, 'imposed'))
    run = analysis.load(
      self.config, find(self.config, 'dpsgd_random'))
    wanted = np.repeat(np.median(run['ratio'], 1), 2, 0)
    np.testing.assert_allclose(ratio, np.maximum(wanted, 0), 1e-6)

  def test_figures(self):
    figures = sorted((self.folder / 'run' / 'figures').iterdir())
    self.assertEqual([f.name for f in figures],
                     ['along.png', 'success.png'])
    for figure in figures:
      with Image.open(figure) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_again_nothing_is_trained(self):
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    stamps = [log.stat().st_mtime_ns for log in logs]
    with contextlib.redirect_stdout(io.StringIO()):
      self.assertEqual(main.run(self.config), self.summary)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)


class TextTest(absltest.TestCase):

  def test_predicts_the_next_character(self):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(SMALL, data_dir=folder, domains=('text',))
      problem = task.Problem(config, 'text')
    train, test = (problem.arrays[name] for name in ('train', 'test'))
    np.testing.assert_array_equal(train['input'][:, 1:],
                                  train['target'][:, :-1])
    self.assertEqual(test['input'].shape, (8, 64))
    arms = decentralized_arms.list_arms(config)
    self.assertEqual([arm.name for arm in arms], ['dpsgd_random', 'ssgd'])
    program = problem.program(arms[0], 'workers')
    self.assertEqual(program.fetch(np.arange(2)).shape, (2, 2, 6))
    params = jax.tree.map(jnp.zeros_like, problem.model.init(jax.random.key(0)))
    found = program.evaluate(program.data, {}, params)
    self.assertAlmostEqual(float(found['loss']), np.log(97), 4)


class ArmsTest(parameterized.TestCase):

  def test_the_network_of_the_paper_has_no_biases(self):
    model = models.build('mlp', input_shape=(8, 8, 1), num_classes=10,
                         hidden=(50, 50), use_bias=False)
    params = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(sum(x.size for x in jax.tree.leaves(params)),
                     64 * 50 + 50 * 50 + 50 * 10)
    with self.assertRaisesRegex(ValueError, 'use_bias is 0; .* true or false'):
      models.build('mlp', input_shape=(8, 8, 1), num_classes=10, use_bias=0)

  def test_noise_of_each_worker_is_its_own_and_as_wide_as_asked(self):
    config = dataclasses.replace(SMALL, noise_stddev=0.3)
    params = {'a': jnp.zeros((50, 20)), 'b': jnp.ones(100)}
    drawn = jax.vmap(lambda key: decentralized_arms.place(
      config, find(config, 'ssgd_noise'), params, key))(
        jax.random.split(jax.random.key(0), 4))
    flat = np.concatenate([np.asarray(drawn['a']).reshape(4, -1),
                           np.asarray(drawn['b']) - 1], 1)
    helpers.assert_mean(flat.ravel(), 0.)
    helpers.assert_mean(flat.ravel()**2, 0.09)
    self.assertLess(np.abs(np.corrcoef(flat) - np.eye(4)).max(),
                    4 / np.sqrt(1100))

  @parameterized.parameters('ssgd', 'imposed', 'dpsgd_complete', 'lamb')
  def test_rates_warm_up_and_are_imposed(self, name):
    """On equal parameters every arm but LAMB takes the mean gradient."""
    config = dataclasses.replace(SMALL, warmup_steps=2, num_workers=2)
    lane = {'learning_rate': 0.5, 'ratio': jnp.array([1., .5, .25])}
    tx = decentralized_arms.make_optimizer(
      config, find(config, name), lane, 'workers')

    def run(gradient):
      def step(state, t):
        updates, state = tx.update(gradient, state, jnp.ones(2), step=t)
        return state, updates
      return jax.lax.scan(step, tx.init(jnp.ones(2)), jnp.arange(3))[1]

    moves = gradiv.map_workers(run, 'workers')(
      jnp.array([[1., 0.], [3., 0.]])).mean(0)
    rates = np.array([0.25, 0.5, 0.5])
    rates *= np.array([1., .5, .25]) if name == 'imposed' else 1
    if name == 'lamb':  # the first step of Adam is a sign
      np.testing.assert_allclose(moves[0], -0.25 * np.array(
        [2**0.5, 0]), 1e-3)
    else:
      np.testing.assert_allclose(
        moves, -2 * rates[:, None] * np.array([[1., 0.]]), 1e-6)

  def test_wilson_and_the_contraction_of_random_pairs(self):
    np.testing.assert_allclose(
      analysis.wilson(0, 12), [0, 0.2425], atol=1e-4)
    bank = topology.random_matching(6, 4000)
    self.assertAlmostEqual(
      decentralized_arms.contraction(bank), (6 - 2) / (2 * 5), delta=0.05)


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    ('--num_workers=1', 'at least 2'), ('--domains=speech', 'some of'),
    ('--batch_sizes=1001', 'multiples of --num_workers=5'),
    ('--batch_sizes=250,250', 'each once'),
    ('--text_batch_size=7', '--text_batch_size=7: must be multiples'),
    ('--topologies=torus', '--topologies'), ('--learning_rates=2,1', 'rising'),
    ('--lamb_rates=0', 'positive'), ('--focus_rate=3', 'one of --learning'),
    ('--noise_stddev=-1', 'at least 0'), ('--warmup_steps=-1', 'at least 0'),
    ('--measure_every=7', 'a multiple of --num_records=10 times'),
    ('--num_records=0', 'a multiple of'), ('--steps=0', 'a multiple of'),
    ('--num_matchings=0', 'at least 1'), ('--target_accuracy=1', 'below 1'),
    ('--target_loss=0', 'positive'), ('--imposed_window=0', 'at least 1'),
    ('--backend=pmap', '1 unless on --backend=vmap'),
    ('--text_model_options=3', '--text_model_options=.3.: must be a JSON'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(ValueError, message):
      flags.parse(
        decentralized.Config, ['decentralized', '--workdir=x', flag])

  @parameterized.parameters((5000, 2048, 'at most the 1437'),
                            (100, 64, 'a multiple of it'))
  def test_examples_to_measure_with(self, count, size, message):
    with tempfile.TemporaryDirectory() as folder:
      problem = task.Problem(dataclasses.replace(
        SMALL, data_dir=folder, measured_examples=count,
        eval_batch_size=size), 'images')
      with self.assertRaisesRegex(ValueError, message):
        _ = problem.measured


if __name__ == '__main__':
  absltest.main()
