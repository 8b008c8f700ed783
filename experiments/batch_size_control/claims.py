"""The claims of `batch_size_control`."""

import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from experiments.batch_size_control import analysis
from experiments.common import intervals
from experiments.common.claims import Claim

# What counts as kept, as fewer, and as no more than twice: ratios.
LOSS, FEWER, TWICE = (-math.inf, 1.1), (-math.inf, 0.9), (-math.inf, 2.0)
FRONT = (0.0, 0.95)
ERRORS = (-math.inf, 2.0)


def claims(config, reduced: xr.Dataset) -> list[Claim]:
  """Judge each controller against the best, smallest and largest batch."""
  return list(_Judge(config, reduced).all())


class _Judge:
  """Judges the reported runs, each as long as held-out seeds have chosen."""

  def __init__(self, config, reduced):
    self.config, self.reduced = config, reduced
    self.best = reduced.attrs['best']
    self.first, *_, self.most = map(str, config.batch_sizes)

  def all(self) -> Iterator[Claim]:
    for arm in analysis.ARMS:
      yield self._errors(arm)
      yield self._loss(arm)
      yield self._fewer('steps', arm, self.first)
      yield self._fewer('gradients', arm, self.most)
      yield self._front(arm)
    for name, other in (('steps', self.most), ('gradients', self.first)):
      yield self._ratio(
        f'twice_{name}', name, 'noise_scale', other,
        f'at most twice the fewest {name}', TWICE, source='section 2.3')

  def _of(self, name, arm):
    return self.reduced[name].sel(arm=arm).values

  def _claim(self, key, arm, text, how, measured, allowed, note='',
             source='ours'):
    return Claim(f'{key}_{arm}', f'{analysis.ARMS[arm]}: {text}', how, measured,
                 allowed, source=source, runs=self.config.num_seeds, note=note)

  def _ratio(self, key, name, arm, other, text, allowed, note='',
             source='ours'):
    shown = {'loss': 'training losses', 'steps': 'steps', 'gradients':
             'gradients, to the first record at the end,'}[name]
    return self._claim(
      key, arm, text, f'{shown} of controlled runs over those at batch '
      f'{other}, seed by seed', intervals.of_mean(
        self._of(name, arm) / self._of(name, other), log=True),
      allowed, note, source)

  def _errors(self, arm):
    apart = analysis.errors_apart(
      self._of('loss', arm), self._of('loss', self.best))
    length = int(self._of('chosen', arm))
    return self._claim(
      'errors', arm, 'it ends within two standard errors of the loss of the '
      f'best fixed batch, {self.best}', 'difference of the mean logarithms of '
      'the training losses, seed by seed, over its standard error; of all runs '
      'together, so that it has no interval', intervals.Interval(
        apart, apart, apart), ERRORS,
      f'After {length:,} scale-invariant iterations, batch {self.best} after '
      f'{self.config.lengths[0]:,}.')

  def _loss(self, arm):
    return self._ratio('loss', 'loss', arm, self.best, 'that loss is larger by '
                       'a tenth at most', LOSS)

  def _fewer(self, name, arm, other):
    length = int(self._of('chosen', other))
    return self._ratio(
      name, name, arm, other, f'at least a tenth fewer {name} to that loss '
      f'than batch {other}', FEWER,
      f'Batch {other} takes {length:,} scale-invariant iterations to it.')

  def _front(self, arm):
    fixed = list(map(str, self.config.batch_sizes))
    ours = [self._of(name, arm) for name in ('steps', 'gradients')]
    theirs = [self.reduced[name].sel(arm=fixed).transpose('seed', 'arm').values
              for name in ('steps', 'gradients')]
    mean = lambda x: np.exp(np.log(x).mean(0))

    def over(steps, gradients, *fixed):
      return mean(steps) / analysis.front(*map(mean, fixed), mean(gradients))

    is_known = all(np.isfinite(x).all() for x in (*ours, *theirs))
    return self._claim(
      'front', arm, 'fewer steps than a fixed batch of as many gradients, by '
      '5 %', 'steps over those of the fixed batch that takes as many gradients '
      'to that loss, logarithms being linear between two fixed batches',
      intervals.resampled(over, *ours, *theirs) if is_known
      else intervals.UNKNOWN, FRONT)
