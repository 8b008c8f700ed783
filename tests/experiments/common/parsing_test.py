"""Command lines: every kind of flag, help by groups, errors that help."""

import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile

from absl import flags as absl_flags
from absl.testing import absltest, parameterized

from experiments.agreement_filtering.config import Config as Filtering
from experiments.common import flags, parsing
from experiments.common.flags import flag

ROOT = pathlib.Path(__file__).parents[3]
PRESETS = sorted((ROOT / 'experiments').glob('*/flags/*.flags'))


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of a paper."""

  passes: int = flag(2, 'over the data')
  decay: float = flag(0.5, 'of averages')
  exact: bool = flag(True, 'not estimated')
  sizes: tuple[int, ...] = flag((16, 32), 'of batches')
  shares: tuple[float, ...] = flag((0.5, 1.0), 'of labels')
  sampling: str = flag('replacement', 'of batches', ('replacement', 'epoch'))


def parse(*argv, cls=Config):
  return parsing.parse(cls, ['main', *argv])


class ParseTest(parameterized.TestCase):

  def test_every_kind_of_flag(self):
    made = parse('--passes=3', '--decay=0.25', '--noexact', '--sizes=1,2',
                 '--shares=1,2', '--sampling=epoch', '--allow_changed=a,b')
    self.assertEqual(made, Config(
      passes=3, decay=0.25, exact=False, sizes=(1, 2), shares=(1.0, 2.0),
      sampling='epoch', allow_changed=('a', 'b')))
    self.assertEqual(parse(), Config())

  def test_a_flagfile(self):
    with tempfile.NamedTemporaryFile('w', suffix='.flags') as file:
      file.write('# a comment\n--passes=7\n')
      file.flush()
      self.assertEqual(parse(f'--flagfile={file.name}').passes, 7)

  @parameterized.parameters(
    ('--size=3', "'size'.*sizes"),  # the nearest name
    ('stray', "'stray' is not a flag"),
    ('--passes=many', '--passes=many'),
    ('--sampling=cyclic', '--sampling=cyclic.*replacement.*epoch'),
    ('--model=lstm', '--model=lstm: value should be one of <logistic'),
    ('--flagfile=/nowhere.flags', '/nowhere.flags'))
  def test_bad_flags(self, argument, message):
    with self.assertRaisesRegex(absl_flags.Error, message) as caught:
      parse(argument)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(
    ('--sizes=1,x', '--sizes=1,x: must be a comma-separated list of int'),
    ('--num_seeds=0', '--num_seeds=0: must be at least 1'))
  def test_bad_values(self, argument, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parse(argument)

  def test_a_report_takes_the_flags_of_the_run(self):
    with tempfile.TemporaryDirectory() as folder:
      stored = {'passes': 9, 'sizes': [1, 2], 'decay': 0.1, 'gone': 3,
                'report': False, 'workdir': 'elsewhere'}
      path = pathlib.Path(folder, 'config.json')
      path.write_text(json.dumps({'flags': stored}))
      made = parse(f'--workdir={folder}', '--report', '--decay=0.2')
      self.assertEqual(made, Config(
        workdir=folder, report=True, passes=9, sizes=(1, 2), decay=0.2))
      self.assertEqual(parse(f'--workdir={folder}').passes, 2)

  @parameterized.named_parameters(
    (path.stem, path) for path in PRESETS
    if path.parents[1].name == 'agreement_filtering')
  def test_presets_parse(self, path):
    parse(f'--flagfile={path}', cls=Filtering)
    text = path.read_text()
    self.assertIn('python -m experiments.agreement_filtering ', text)
    for word in ('Cost', 'The paper', path.name):
      self.assertIn(word, text)


class HelpTest(parameterized.TestCase):

  def show(self, name):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      with self.assertRaises(SystemExit) as left:
        parse(f'--{name}', cls=Filtering)
    self.assertEqual(left.exception.code, 0)
    return out.getvalue()

  def test_groups_the_flags_by_the_class_that_declares_them(self):
    text = self.show('help')
    self.assertIn('python -m experiments.agreement_filtering', text)
    own, shared = text.split('The flags that all papers share:')
    self.assertIn('--thresholds', own)
    self.assertIn('--num_seeds', own)  # its default is the paper's
    self.assertNotIn('--thresholds', shared)
    self.assertNotIn('--num_seeds', shared)
    self.assertIn('--model: <logistic|mlp|cnn|cuda_convnet|resnet18>', shared)
    self.assertLessEqual(max(map(len, text.splitlines())), 80)

  def test_short_and_full(self):
    self.assertNotIn('--backend', self.show('helpshort'))
    self.assertIn('--thresholds', self.show('helpshort'))
    self.assertIn('--flagfile', self.show('helpfull'))
    self.assertNotIn('--flagfile:', self.show('help'))


if __name__ == '__main__':
  absltest.main()
