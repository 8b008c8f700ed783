"""Drawn command lines: one line and exit code 2, or a run that can be done."""

import os
import pathlib
import re
import tempfile

import hypothesis
import pytest
from absl import flags as absl_flags
from absl.testing import absltest
from hypothesis import strategies as st

from experiments.common import flags, parsing
from experiments.gradient_diversity import __main__ as gradient_diversity
from tests.experiments import presets
from tests.fuzz import command_lines
from tests.fuzz.library_test import QUIET, SEED

TOTAL = int(os.environ.get('FUZZ_LINES', 300))
CLASSES = presets.CONFIGS | {
  'gradient_diversity': gradient_diversity.STUDIES['batches'][0],
  'mechanisms': gradient_diversity.STUDIES['mechanisms'][0]}
# The culprit, its value, and what is wrong with it.
NAMED = re.compile(r'--\w+=.*: ?.+')


class FlagsTest(absltest.TestCase):

  @hypothesis.settings(max_examples=60, derandomize=True, **QUIET)
  @hypothesis.given(command_lines.lines(CLASSES))
  def test_many_are_parsed(self, line):
    try:
      parsing.parse(CLASSES[line.paper], [line.paper, *line.flags])
    except (absl_flags.Error, flags.UsageError) as error:
      self.assertRegex(str(error), NAMED, line)
      self.assertNotIn('\n', str(error))

  @pytest.mark.fuzz
  def test_all_end_before_the_training_or_not_at_all(self):
    root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=TOTAL, **QUIET)
    @hypothesis.given(command_lines.lines(CLASSES),
                      st.sampled_from(('plain', 'diverged')))
    def run(line, results):
      with tempfile.TemporaryDirectory(dir=root) as folder:
        code, said = command_lines.follow(line, pathlib.Path(folder), results)
      if code:
        self.assertEqual(code, 2, (line, said))
        last = said.strip().splitlines()[-1]
        self.assertRegex(last, NAMED, line)

    run()


if __name__ == '__main__':
  absltest.main()
