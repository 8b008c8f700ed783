"""Drawn uses of every transformation: a right result, or a right error."""

import os
import secrets

import hypothesis
import pytest
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from tests.contract import table
from tests.fuzz import drawing, judging

# `make fuzz` sets and prints it; without, each process draws its own.
SEED = os.environ.get('FUZZ_SEED') or str(secrets.randbelow(2**31))
# Of all rows together.
TOTAL = int(os.environ.get('FUZZ_USES', 2000))
EACH = -(-TOTAL // len(table.TABLE))
QUIET = dict(deadline=None, database=None, suppress_health_check=list(
  hypothesis.HealthCheck))


class LibraryTest(parameterized.TestCase):

  @hypothesis.settings(max_examples=6, derandomize=True, **QUIET)
  @hypothesis.given(st.sampled_from(table.TABLE).flatmap(drawing.uses))
  def test_a_few_are_traced(self, use):
    judging.judge(use, compiled=False)

  @parameterized.named_parameters(*table.named())
  @pytest.mark.fuzz
  def test_all_run(self, row):
    @hypothesis.seed(f'{SEED} {row.name}')  # else all rows draw alike
    @hypothesis.settings(max_examples=EACH, **QUIET)
    @hypothesis.given(drawing.uses(row))
    def run(use):
      judging.judge(use)

    run()

  @parameterized.named_parameters(*table.named())
  @pytest.mark.fuzz
  def test_every_argument_with_every_value(self, row):
    for use in drawing.one_argument(row):
      judging.judge(use, compiled=False)


if __name__ == '__main__':
  absltest.main()
