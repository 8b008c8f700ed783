"""A whole small run of `critical_batch`."""

import dataclasses

import numpy as np
import pytest
from absl.testing import absltest

from experiments.common.parts import Trained
from experiments.critical_batch import analysis
from experiments.critical_batch.study import CriticalBatch
from tests.experiments import study_run
from tests.experiments.critical_batch.small import SMALL


@pytest.mark.slow
class RunTest(study_run.StudyRun, absltest.TestCase):

  study, small = CriticalBatch(), SMALL

  @classmethod
  def before(cls):
    """Keep what each part has found."""
    cls.done = {}
    read = Trained.read

    def keep(part, workdir):
      cls.done[part.name] = found = read(part, workdir)
      return found

    Trained.read = keep
    cls.addClassCleanup(setattr, Trained, 'read', read)

  def test_branches_begin_where_the_trunk_is(self):
    for domain in SMALL.domains:
      for factor in SMALL.factors:
        start = self.done[f'{domain}_branch_{factor}']['loss'].isel(step=0)
        for i, point in enumerate(SMALL.points):
          trunk = self.done[f'{domain}_trunk_{i}']['loss'].isel(step=-1)
          np.testing.assert_allclose(start.sel(point=point), trunk, 1e-5)

  def test_a_branch_at_the_same_batch_is_the_trunk_going_on(self):
    for domain in SMALL.domains:
      branch = self.done[f'{domain}_branch_1']['loss'].sel(point=4)
      trunk = self.done[f'{domain}_trunk_1']['loss']
      np.testing.assert_allclose(branch, trunk, 1e-5)
      self.assertGreater(float(np.ptp(trunk.values, -1).min()), 1e-4)

  def test_ramps_end_after_as_many_examples(self):
    for domain, found in self.outcome.reduced.items():
      for arm in analysis.ARMS:
        factors = tuple(found['ramp_factors'].sel(arm=arm).values.tolist())
        steps = self.done[f'{domain}_{analysis.name_of_ramp(factors)}'].step
        self.assertEqual(int(steps[-1]) * factors[-1], SMALL.branch_steps)
        self.assertEqual(
          float(found['ramp_steps'].sel(arm=arm)),
          4 + 4 / factors[0] + 4 / factors[1])

  def test_it_says_what_it_found(self):
    self.assertLen(self.outcome.claims, 7 * len(SMALL.domains))
    for claim in self.outcome.claims:
      self.assertIn(claim.text, self.printed)
    self.assertIn('what gradiv.advise says', self.printed)

  def test_one_domain_reads_what_is_there(self):
    again = self.look_again(domains=SMALL.domains[:1])
    self.assertEqual([*again.reduced], [SMALL.domains[0]])

  def test_another_tolerance_trains_no_branch_again(self):
    before = self.records()
    study_run.run(self.study, dataclasses.replace(
      self.config, tolerance=1e-6))
    after = self.records()
    self.assertEqual({path: after[path] for path in before}, before)


if __name__ == '__main__':
  absltest.main()
