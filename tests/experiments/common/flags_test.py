"""Flags: parsed once, checked at once, with errors that help."""

import pathlib
import subprocess
import sys
import tempfile

from absl import flags
from absl.testing import absltest, parameterized

from experiments.agreement_filtering import config as agreement_filtering
from experiments.common import flags as config
from experiments.decentralized import config as decentralized
from experiments.gradient_diversity import config as gradient_diversity

ROOT = pathlib.Path(__file__).parents[3]
PRESETS = sorted((ROOT / 'experiments').glob('*/flags/*.flags'))


def parse(*argv):
  return config.parse(gradient_diversity.Config, ['main', *argv])


class ConfigTest(parameterized.TestCase):

  def test_every_kind_of_flag(self):
    made = parse('--workdir=x', '--passes=3', '--target_loss=0.5', '--noexact',
                 '--batch_sizes=16,64', '--replications=1,1.5',
                 '--model=logistic', '--model_options={}')
    self.assertEqual(made.batch_sizes, (16, 64))
    self.assertEqual(made.replications, (1.0, 1.5))
    self.assertEqual((made.passes, made.target_loss, made.exact, made.model),
                     (3, 0.5, False, 'logistic'))
    self.assertEqual(config.options(parse('--workdir=x')), {'hidden': (32,)})

  def test_a_flagfile(self):
    with tempfile.NamedTemporaryFile('w', suffix='.flags') as file:
      file.write('# a comment\n--passes=7\n')
      file.flush()
      made = parse(f'--flagfile={file.name}', '--workdir=x')
    self.assertEqual(made.passes, 7)

  def test_where_and_how_often_to_save_defines_nothing(self):
    one = parse('--workdir=x', '--save_seconds=1').defining()
    self.assertEqual(one, parse('--workdir=y', '--data_dir=z').defining())
    self.assertNotEqual(one, parse('--workdir=x', '--seed=1').defining())

  @parameterized.parameters(
    (('--batch_size=3',), 'batch_sizes'),  # the nearest name
    (('stray',), 'not a flag'),
    (('--passes=many',), 'passes'),
  )
  def test_bad_flags(self, argv, message):
    with self.assertRaisesRegex(flags.Error, message):
      parse('--workdir=x', *argv)

  @parameterized.parameters(
    ((), "--workdir=''"),
    (('--passes=1',), '--passes=1: must be at least 2'),
    (('--batch_sizes=16,100',), 'divisors of --train_examples=1024'),
    (('--batch_sizes=64,16',), 'rising'),
    (('--batch_sizes=a',), 'comma-separated list of int'),
    (('--num_workers=0',), '--num_workers=0'),
    (('--num_workers=3',), 'a multiple of --num_workers=3'),
    (('--backend=gpu',), "--backend='gpu'"),
    (('--model_options=[]',), 'must be a JSON object'),
    (('--replications=2,4',), 'the first 1'),
    (('--reference_batch_size=17',), 'one of --batch_sizes'),
    (('--eval_batch_size=1000',), 'a divisor'),
    (('--sampling=cyclic',), "--sampling='cyclic'"),
    (('--lanes_at_once=-1',), 'at least 0'),
  )
  def test_values_out_of_range(self, argv, message):
    workdir = ('--workdir=x',) if argv else ()
    with self.assertRaisesRegex(ValueError, message):
      parse(*workdir, *argv)

  @parameterized.named_parameters(
    (f'{p.parents[1].name}_{p.stem}', p) for p in PRESETS)
  def test_presets_parse(self, path):
    paper = path.parents[1].name
    module = {m.__package__.split('.')[1]: m for m in (
      agreement_filtering, decentralized, gradient_diversity)}[paper]
    made = config.parse(
      module.Config, ['main', f'--flagfile={path}', '--workdir=x'])
    self.assertEqual(made.workdir, 'x')
    text = path.read_text()
    self.assertIn(f'python -m experiments.{paper} ', text)
    self.assertIn(f'--flagfile=experiments/{paper}/flags/{path.name}', text)
    for word in ('Cost', 'The paper'):
      self.assertIn(word, text)

  def run_module(self, *argv):
    return subprocess.run(
      [sys.executable, '-m', 'experiments.gradient_diversity', *argv],
      cwd=ROOT, capture_output=True, text=True, timeout=60)

  def test_the_command_line(self):
    bad = self.run_module('--workdir=x', '--passes=1')
    self.assertEqual(bad.returncode, 2)
    self.assertNotIn('Traceback', bad.stderr)
    self.assertIn('--passes=1: must be at least 2', bad.stderr)
    shown = self.run_module('--help')
    self.assertEqual(shown.returncode, 0)
    self.assertIn('--batch_sizes', shown.stdout)
    self.assertIn('python -m experiments.gradient_diversity', shown.stdout)

  def test_data_that_are_not_to_be_had(self):
    with tempfile.TemporaryDirectory() as folder:
      gone = self.run_module(
        f'--workdir={folder}/run', f'--data_dir={folder}', '--dataset=mnist',
        '--num_seeds=1')
    self.assertEqual(gone.returncode, 1)
    self.assertNotIn('Traceback', gone.stderr)
    self.assertIn('mnist', gone.stderr)
    self.assertIn(folder, gone.stderr)


if __name__ == '__main__':
  absltest.main()
