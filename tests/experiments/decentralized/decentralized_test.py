"""The third paper, small: a run that is cut off, arms, records, flags."""

import contextlib
import dataclasses
import io
import json
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
from experiments.common import flags, parsing, study as study_lib
from experiments.decentralized import (
  arms as decentralized_arms,
  config as decentralized,
  study,
  task,
)
from experiments.engine import records, signals
from gradiv.decentralized import topology
from tests import helpers

SMALL = decentralized.Config(
  workdir='unset', domains=('images',), num_workers=3, num_seeds=2, few_seeds=1,
  roundings=1, batch_sizes=(12, 6), topologies=('random', 'complete'),
  num_matchings=2, steps=4, num_records=2, measure_every=1, imposed_window=1,
  learning_rates=(0.5, 4.), focus_rate=4., lamb_rates=(0.01,),
  fig_5_rates=(0.5,), target_accuracy=0.1, measured_examples=64,
  eval_batch_size=64, model='logistic', model_options='{}', text_length=64,
  text_batch_size=6, text_steps=4, text_seeds=2, text_examples=8,
  text_learning_rates=(1.,), text_model_options='{"embed": 2, "hidden": 3}')


def find(config, name, domain='images'):
  return next(arm for arm in decentralized_arms.list_arms(config)
              if (arm.name, arm.domain) == (name, domain))


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
      SMALL, workdir=str(cls.folder / 'run'), roundings=2,
      data_dir=str(cls.folder / 'data'), batch_sizes=(63,),
      topologies=('random',))
    cls.study = study.Decentralized()
    cls.task = cls.study.prepare(cls.config)
    try:  # cut off in the middle of an arm
      cls.part('dpsgd_random').run(cls.folder / 'run', StopAtFirstLook())
    except signals.Interrupted:
      cls.cut = records.read(cls.log('dpsgd_random'))
    cls.printed, cls.outcome = cls.run_study()

  @classmethod
  def run_study(cls, **changed):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      outcome = study_lib.run(
        cls.study, dataclasses.replace(cls.config, **changed),
        stop=signals.Stop(), report_only=changed.get('report', False))
    return out.getvalue(), outcome

  @classmethod
  def part(cls, name):
    return cls.study.part(cls.config, cls.task, find(cls.config, name))

  @classmethod
  def log(cls, name):
    return (cls.folder / 'run' / find(cls.config, name).part / 'lanes_00'
            / 'metrics.jsonl')

  def test_a_run_that_was_cut_off_goes_on(self):
    """Series and parameters of each worker's own: as those of a whole run."""
    self.assertEqual([row['step'] for row in self.cut], [0, 2])
    whole = self.folder / 'whole'
    self.part('dpsgd_random').run(whole, signals.Stop())
    self.assertEqual(
      records.read(self.log('dpsgd_random')), records.read(
        whole / self.log('dpsgd_random').relative_to(self.folder / 'run')))

  def test_every_arm_has_its_cells(self):
    summary = json.loads((self.folder / 'run' / 'summary.json').read_text())
    found = {(c['arm'], c['domain'], c['batch_size'], c['learning_rate'])
             for c in summary['cells']}
    four = 'ssgd', 'ssgd_noise', 'imposed', 'dpsgd_random'
    six = 'ssgd', 'ssgd_noise', 'dpsgd_two_neighbors'
    self.assertEqual(found, {
      *((name, 'images', 63, rate) for name in four for rate in (0.5, 4.)),
      *((name, 'images', 126, 0.5) for name in six),
      ('lamb', 'images', 63, 0.01)})
    for claim in self.outcome.claims:
      self.assertIn(claim.text, self.printed)
      self.assertIsNotNone(claim.second)
    self.assertIn('SSGD, imposed rate', self.printed)

  def test_who_starts_alike_goes_alike_at_first(self):
    """At step 0 all parameters are equal: a ratio near 1, and no spread."""
    runs = {name: self.outcome.reduced.find(name).records
            for name in ('ssgd', 'dpsgd_random')}
    first = {name: run['ratio'][..., 0] for name, run in runs.items()}
    np.testing.assert_allclose(first['ssgd'], first['dpsgd_random'], 1e-4)
    for name, run in runs.items():
      decentralized = name == 'dpsgd_random'
      self.assertLess(run['spread'][..., 0].max(), 1e-10)  # of rounding
      self.assertEqual(run['spread'].max() > 1e-6, decentralized)
      self.assertEqual(
        bool((run['across_spread'][..., 1:] > 0).all()), decentralized)

  def test_the_imposed_ratio_is_that_of_dpsgd(self):
    lanes = json.loads(
      (self.log('imposed').parent / 'lanes.json').read_text())['lanes']
    ratio = self.outcome.reduced.find('dpsgd_random').records['ratio']
    wanted = np.repeat(np.median(ratio, 1), 2, 0)
    np.testing.assert_allclose([at['ratio'] for at in lanes],
                               np.maximum(wanted, 0), 1e-5, 1e-6)

  def test_the_second_rounding_differs_in_rounding_alone(self):
    one, two = (
      np.array(records.read(path / self.log('ssgd').relative_to(
        self.folder / 'run'))[1]['ratio'])
      for path in (self.folder / 'run', self.folder / 'run' / 'reversed'))
    np.testing.assert_allclose(one, two, 1e-4)
    self.assertTrue((one != two).any())

  def test_figures(self):
    for name in ('along', 'success', 'claims'):
      with Image.open(self.folder / 'run' / f'{name}.png') as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_again_nothing_is_trained(self):
    """Neither by the same command, nor by a report, nor at another target."""
    logs = sorted((self.folder / 'run').rglob('metrics.jsonl'))
    stamps = [log.stat().st_mtime_ns for log in logs]
    self.assertLen(logs, 16)
    for changed in ({}, {'report': True}, {'target_accuracy': 0.2}):
      _, outcome = self.run_study(**changed)
      if 'target_accuracy' not in changed:
        self.assertEqual(outcome.claims, self.outcome.claims)
    self.assertEqual([log.stat().st_mtime_ns for log in logs], stamps)


class TextTest(absltest.TestCase):

  def test_predicts_the_next_character(self):
    with tempfile.TemporaryDirectory() as folder:
      config = dataclasses.replace(SMALL, data_dir=folder, domains=('text',))
      of_text = task.Task(config, 'text')
    train, test = (of_text.arrays[name] for name in ('train', 'test'))
    np.testing.assert_array_equal(train['input'][:, 1:],
                                  train['target'][:, :-1])
    self.assertEqual(test['input'].shape, (8, 64))
    arms = decentralized_arms.list_arms(config)
    self.assertEqual([arm.name for arm in arms], ['dpsgd_random', 'ssgd'])
    program = of_text.program(
      arms[0], {'rate': np.ones(2), 'seed': np.arange(2)})
    self.assertEqual(program.fetch(np.arange(2)).shape, (2, 2, 6))
    params = jax.tree.map(jnp.zeros_like, of_text.model.init(jax.random.key(0)))
    found = program.evaluate(program.data, {}, params)
    self.assertAlmostEqual(float(found['loss']), np.log(97), 4)


class DataTest(absltest.TestCase):

  def test_examples_that_define_g_are_data_and_not_constants(self):
    with tempfile.TemporaryDirectory() as folder:
      images = task.Task(dataclasses.replace(SMALL, data_dir=folder), 'images')
    program = images.program(find(SMALL, 'ssgd'), {
      'rate': np.ones(1), 'seed': np.arange(1)})
    self.assertEqual(program.data['measured']['input'].shape[:2], (1, 64))
    lane = jax.tree.map(lambda x: x[0], program.lanes) | {'step': 0}
    tx = program.make_optimizer(lane)

    def step(data, params):
      batch = program.batch(data, lane, np.arange(4))
      _, sample = program.gradient(lane, params, batch, jax.random.key(0))
      return tx.update(sample, tx.init(params), params)

    traced = jax.make_jaxpr(
      lambda data, params: jax.vmap(
        step, in_axes=(None, 0), axis_name='workers')(data, jax.tree.map(
          lambda x: x[None], params)))(program.data, images.model.init(
            jax.random.key(0)))
    size = sum(np.size(x) for x in traced.consts)
    self.assertLess(size, 64 * 64)  # fewer than the pixels of `measured`


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
  def test_rates_warm_up_are_cut_and_are_imposed(self, name):
    """On equal parameters every arm but LAMB takes the mean gradient."""
    config = dataclasses.replace(
      SMALL, warmup_steps=2, num_workers=2, rate_cuts=(0.75,))
    lane = {'rate': 0.5, 'ratio': jnp.array([1., .5, .25, .25])}
    tx = decentralized_arms.make_optimizer(
      config, find(config, name), lane, 'workers')

    def run(gradient):
      def step(state, t):
        updates, state = tx.update(gradient, state, jnp.ones(2), step=t)
        return state, updates
      return jax.lax.scan(step, tx.init(jnp.ones(2)), jnp.arange(4))[1]

    moves = gradiv.map_workers(run, 'workers')(
      jnp.array([[1., 0.], [3., 0.]])).mean(0)
    rates = np.array([0.25, 0.5, 0.5, 0.05])
    rates *= np.array([1., .5, .25, .25]) if name == 'imposed' else 1
    if name == 'lamb':  # the first step of Adam is a sign
      np.testing.assert_allclose(moves[0], -0.25 * np.array(
        [2**0.5, 0]), 1e-3)
    else:
      np.testing.assert_allclose(
        moves, -2 * rates[:, None] * np.array([[1., 0.]]), 1e-6)

  def test_the_contraction_of_random_pairs_and_rings(self):
    for make, wanted in ((topology.random_matching, (6 - 2) / (2 * 5)),
                         (topology.random_ring, (6 - 3) / (3 * 5))):
      self.assertAlmostEqual(
        decentralized_arms.contraction(make(6, 4000)), wanted, delta=0.05)

  def test_graphs_of_the_figures(self):
    """Fig. 2: all with all. Fig. 5: with five of six, their own included."""
    arms = {arm.name: arm for arm in decentralized_arms.list_arms(SMALL)}
    np.testing.assert_allclose(decentralized_arms.mixing_matrices(
      SMALL, arms['dpsgd_complete']), 1 / 3)
    six = arms['dpsgd_two_neighbors']
    w = decentralized_arms.mixing_matrices(SMALL, six)
    np.testing.assert_array_equal((w > 0).sum(0), [5] * 6)
    self.assertEqual(w[0, 3], 0)
    self.assertEqual((six.num_workers, six.batch_size), (6, 24))


class ConfigTest(parameterized.TestCase):

  def test_the_flags_name_every_graph(self):
    self.assertEqual(
      decentralized.TOPOLOGIES, tuple(decentralized_arms.TOPOLOGIES))

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
    ('--fig_5_rates=2,1', 'rising'),
    ('--fig_5_rates=0', 'positive'), ('--rate_cuts=0.5,2', 'shares'),
    ('--few_seeds=0', 'at least 1'), ('--roundings=3', '1 or 2'),
    ('--text_model_options=3', '--text_model_options=.3.: must be a JSON'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(
        decentralized.Config, ['decentralized', '--workdir=x', flag])

  @parameterized.parameters((5000, 2048, 'at most the 1437'),
                            (100, 64, 'a multiple of it'))
  def test_examples_to_measure_with(self, count, size, message):
    with tempfile.TemporaryDirectory() as folder:
      with self.assertRaisesRegex(flags.UsageError, message):
        task.Task(dataclasses.replace(
          SMALL, data_dir=folder, measured_examples=count,
          eval_batch_size=size), 'images')

  def test_fig_5_can_be_left_out(self):
    six = ['decentralized', '--workdir=x', '--batch_sizes=1200',
           '--text_batch_size=96', '--num_workers=6']
    with self.assertRaisesRegex(flags.UsageError, 'empty where 1200, its'):
      parsing.parse(decentralized.Config, six)
    parsing.parse(decentralized.Config, [*six, '--fig_5_rates='])
    config = parsing.parse(decentralized.Config, [
      'decentralized', '--workdir=x', '--fig_5_rates='])
    self.assertEqual(config.fig_5_rates, ())
    self.assertNotIn(6, {
      arm.num_workers for arm in decentralized_arms.list_arms(config)})


if __name__ == '__main__':
  absltest.main()
