"""docs/performance.md shows its records, and limits tell yes from no."""

import contextlib
import io
import json

from absl.testing import absltest, parameterized

from experiments.common import parsing
from experiments.overhead import config, limits, page
from experiments.overhead.accelerator import config as accelerator
from experiments.overhead.examples import config as examples
from experiments.overhead.zoo import __main__ as zoo


def records():
  return [json.loads((page.RESULTS / name).read_text()) for name in page.NAMES]


class PageTest(parameterized.TestCase):

  def test_the_page_is_what_the_command_writes(self):
    self.assertEqual(page.main(['--check']), 0)

  def test_a_changed_number_is_found(self):
    overhead, examples = records()
    text = page.PAGE.read_text()
    overhead['layers']['ways']['tracked']['milliseconds'] *= 1.5
    self.assertNotEqual(page.page(text, overhead, examples), text)

  def test_an_unknown_argument(self):
    with contextlib.redirect_stdout(io.StringIO()) as out:
      self.assertEqual(page.main(['--force']), 2)
    self.assertIn("'--force' is not known", out.getvalue())

  def test_a_page_without_a_mark(self):
    with self.assertRaises(ValueError):
      page.page('# no marks', *records())

  @parameterized.parameters((0.9, 'yes'), (1.1, '**no**'))
  def test_a_rule_beside_torchjd(self, times, verdict):
    overhead, examples = records()
    overhead['peers'] = [{'n': 8, 'D': 100_000, 'rules': {
      'mean': {'ours': 1.0, 'theirs': 2.0},
      'Krum': {'ours': times, 'theirs': 1.0}}}]
    *_, last = limits.rows(overhead, examples)
    self.assertEqual(last, "| slowest rule, our time over TorchJD's | 1 | "
                     f'{times:.2f} (n = 8, D = 1e5) | {verdict} |')
    self.assertIn(f'| Krum | {1 / times:.2f} ({times} ms) |',
                  page.peers_table(overhead['peers']))

  def test_each_program_has_a_folder_of_its_own(self):
    classes = (config.Config, examples.Config, accelerator.Config,
               zoo.Config)
    folders = {parsing.folder(cls, cls().workdir) for cls in classes}
    self.assertLen(folders, len(classes))

  def test_what_is_not_measured_has_no_verdict(self):
    overhead, examples = records()
    overhead['peers'] = 'TorchJD is not measured'
    *_, last = limits.rows(overhead, examples)
    self.assertEndsWith(last, '| not measured |  |')


if __name__ == '__main__':
  absltest.main()
