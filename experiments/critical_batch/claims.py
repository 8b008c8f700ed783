"""The claims of `critical_batch`."""

import math
from collections.abc import Iterator

import numpy as np
import xarray as xr

from experiments.common import intervals
from experiments.common.claims import Claim
from experiments.critical_batch import analysis

FACTOR_OF_TWO = (0.5, 2.0)
FEWER = (0.0, 0.95)  # of the steps; a ramp that stays at one size is no gain
WORDS = {'images': 'digits', 'text': 'text'}
RAMPS = {'bound': 'B_S', 'predicted': 'the prediction', 'measured': 'branches'}


def claims(config, reduced: dict[str, xr.Dataset]) -> list[Claim]:
  """Judge the predictions at each point, the growth, and the ramps."""
  return [claim for domain, found in reduced.items()
          for claim in _Judge(config, domain, found).all()]


class _Judge:
  """Judges one domain."""

  def __init__(self, config, domain, found):
    self.config, self.found = config, found
    self.setting = config.setting(domain)
    self.sizes = analysis.sizes_of(found)

  def all(self) -> Iterator[Claim]:
    ratios = [self._ratio(point) for point in self.config.points]
    worst = max(range(len(ratios)),
                key=lambda i: _reach(ratios[i]['predicted']))
    for i, ratio in enumerate(ratios):
      yield self._bound(i, ratio['bound'])
    yield self._predicted(worst, ratios[worst]['predicted'])
    yield self._growth()
    for arm in analysis.ARMS:
      yield self._ramp(arm)

  def _claim(self, key, text, how, measured, allowed, note='', source='ours'):
    domain = self.setting.domain
    return Claim(f'{domain}_{key}', f'{WORDS[domain]}: {text}', how, measured,
                 allowed, source=source, runs=self.config.num_seeds, note=note)

  def _ratio(self, point):
    """Compare both predictions at a point with what branches measure."""
    at = self.found.sel(point=point)
    loss, signals = at['log_loss'].values, at['signal'].values
    def over(predict):
      found = intervals.resampled(
        lambda *x: predict(*x) / analysis.measured(self.setting, x[0]),
        loss, signals)
      return found if found.is_known else intervals.UNKNOWN

    return {'bound': over(lambda _, signals: analysis.bound(signals)),
            'predicted': over(
              lambda *x: analysis.predicted(self.setting, *x))}

  def _bound(self, i, ratio):
    point = self.config.points[i]
    return self._claim(
      f'bound_{point}', f'B_S is the critical batch size at step {point:,}, to '
      'a factor of two', 'B_S over the critical batch size that branches '
      'measure', ratio, FACTOR_OF_TWO, self._at(i))

  def _predicted(self, i, ratio):
    return self._claim(
      'predicted', 'B_S and the loss of the small batch predict it, to a '
      'factor of two', 'predicted over measured critical batch size, both at '
      f'the tolerance of {100 * self.setting.tolerance:g} %. Where the small '
      'batch B comes to the tolerance after a share s of its branch, B/s + '
      '(B_S − 1)(1 − s)/s is predicted. Of '
      f'{len(self.config.points)} points the one whose interval reaches '
      f'farthest from 1, step {self.config.points[i]:,}', ratio, FACTOR_OF_TWO,
      self._at(i))

  def _at(self, i):
    """Write the sizes at a point."""
    found = {arm: sizes[i].value for arm, sizes in self.sizes.items()}
    last = self.setting.sizes[-1]
    shown = (f'more than {last}' if found['measured'] > last
             else f'{found["measured"]:.0f}')
    return (f'B_S is {found["bound"]:.0f}, the prediction at the tolerance '
            f'{found["predicted"]:.0f}, and {shown} is measured.')

  def _growth(self):
    """Whether the critical batch size rises; beyond the largest counts as it.
    """
    capped = lambda loss: min(
      analysis.measured(self.setting, loss), self.setting.sizes[-1])
    return self._claim(
      'growth', 'the critical batch size rises along the training',
      'measured critical batch size at the last point over that at the first',
      intervals.resampled(lambda loss: capped(loss[:, -1]) / capped(loss[:, 0]),
                          self.found['log_loss'].values),
      (1.0, math.inf), source='abstract')

  def _ramp(self, arm):
    """Whether a ramp beats every fixed batch at its own loss."""
    of, fixed = self.found.sel(arm=arm), self.found['fixed'].values
    ramp = of['ramp'].values
    share = float(of['ramp_steps']) / self.config.steps
    kept = math.exp((ramp - fixed[:, 0]).mean())
    sizes = [self.setting.batch_size * int(factor)
             for factor in (1, *of['ramp_factors'].values)]
    return self._claim(
      f'ramp_{arm}', f'a ramp by {RAMPS[arm]} takes fewer steps than any fixed '
      'batch of its loss, by 5 %', 'steps of the ramp over those of the '
      'largest fixed batch that reaches its loss on as many examples; of the '
      'smallest, where none does',
      intervals.resampled(lambda fixed, ramp: analysis.steps_saved(
        self.setting, fixed, ramp, share), fixed, ramp), FEWER,
      f'Batches of {", ".join(map(str, sizes))}: it ends at {kept:.3g} times '
      f'the loss of the small batch, in {100 * share:.0f} % of its steps.')


def _reach(ratio):
  """Say how far an interval reaches from 1; what is unknown is farthest."""
  with np.errstate(divide='ignore', invalid='ignore'):
    ends = np.abs(np.log(ratio))
  return math.inf if np.isnan(ends).any() else float(ends.max())
