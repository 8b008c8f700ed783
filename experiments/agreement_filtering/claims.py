"""The claims of Chaubard et al. 2024, and controls that could refute them."""

import math

from experiments.agreement_filtering import analysis
from experiments.agreement_filtering.config import FILTER
from experiments.common import intervals
from experiments.common.claims import Claim

# Points of accuracy read off Fig. 6 (ResNet-18, CIFAR-100, one seed).
PAPER_GAINS = {0.2: 0.08, 0.4: 0.15, 0.6: 0.19}
GAIN = (0.0, math.inf)
# A mean cosine distance of one is that of orthogonal gradients.
ORTHOGONAL = (0.9, 1.1)


def claims(config, reduced) -> list[Claim]:
  """Judge every claim at every share of wrong labels."""
  return _gains(config, reduced) + _angles(config, reduced)


def gain(config, reduced, other: str, noise: float, *, is_tuned: bool = False):
  """Compare the filter with another arm, seed by seed: [seed].

  At the largest rate and the threshold of the controls, by the validation
  accuracy; with `is_tuned`, each at its own rate and threshold, by the test
  accuracy.
  """
  found = lambda arm: reduced.test_at_best(arm) if is_tuned else (
    analysis.final(reduced.at_one_rate(arm, config.control_threshold)))
  return (found(FILTER) - found(other)).sel(noise=noise).values


def _gains(config, reduced) -> list[Claim]:
  rate = f'{config.learning_rates[-1]:g}'
  rows = (
    ('mean', False, 'Filtering beats the mean at one learning rate for all',
     f'validation accuracy beyond the mean, both at the rate {rate}', 'Fig. 6'),
    ('random', False, 'Filtering beats a blind filter of the same rate',
     f'validation accuracy beyond a filter that drops as many gradients at '
     f'random, both at the rate {rate}', 'ours'),
    ('equal_updates', False, 'Filtering beats the mean with as many updates',
     f'validation accuracy beyond the mean with as many updates, both at the '
     f'rate {rate}', 'ours'),
    ('mean', True, 'Filtering beats the mean where both are tuned',
     'test accuracy beyond the mean, with rate and threshold tuned on '
     'validation data', 'ours'))
  wrong = [noise for noise in config.noise_rates if noise]
  return [Claim(
    f'{other}{"_tuned" * is_tuned}_{100 * noise:.0f}',
    f'{text}: {100 * noise:.0f} % wrong labels', how,
    intervals.of_mean(gain(config, reduced, other, noise, is_tuned=is_tuned)),
    GAIN, PAPER_GAINS.get(noise) if source == 'Fig. 6' else None, source,
    runs=config.num_seeds, unit='%')
    for other, is_tuned, text, how, source in rows for noise in wrong]


def _angles(config, reduced):
  run = reduced.at_one_rate('mean', config.control_threshold)
  early, late = (analysis.distance(config, run).isel(step=i).mean(
    'noise').values for i in (0, -1))
  return [
    Claim('orthogonal', 'Micro-gradients are nearly orthogonal late in the '
          'training', 'mean cosine distance in the last tenth of the steps, of '
          'all shares of wrong labels', intervals.of_mean(late), ORTHOGONAL,
          source='abstract', runs=config.num_seeds),
    Claim('more_orthogonal', 'Micro-gradients are closer to orthogonal late '
          'than early', 'the same, less that in the first tenth',
          intervals.of_mean(late - early), GAIN, source='abstract',
          runs=config.num_seeds)]
