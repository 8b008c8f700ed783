"""The claims about batch sizes, on records that are made up."""

import dataclasses
import math

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.gradient_diversity.batches import analysis, claims
from tests.experiments.gradient_diversity.small import SMALL

# The records of a larger study, made up: [replication, batch, seed].
SIZES, SEEDS = (16, 64, 512, 1024), 8
LARGE = dataclasses.replace(
  SMALL, train_examples=1024, batch_sizes=SIZES, num_seeds=SEEDS, passes=48,
  num_twins=SEEDS)


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
    None, label(ratios), label(counts), label(growth), nothing, bands, None,
    None, xr.DataArray(_near(distance)[..., None], {'batch': list(SIZES)},
                 ('batch', 'seed', 'pass')))


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
    self.assertIn('in 2 of the other 6, every', found['prediction'].note)


if __name__ == '__main__':
  absltest.main()
