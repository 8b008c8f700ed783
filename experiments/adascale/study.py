"""The study."""
import math

import numpy as np
import xarray as xr

import gradiv
from experiments.adascale.task import Task
from experiments.common import study
from experiments.common.parts import Trained


class AdaScale(study.Study):
  """Johnson et al. 2020."""

  name = 'adascale'
  title = 'Johnson et al. 2020: AdaScale SGD'
  link = 'https://arxiv.org/abs/2007.05105'

  def prepare(self, config):
    return Task(config)

  def stages(self, config, task, done):
    def part(name, scale, also, **axes):
      return Trained(
        name, axes | {'seed': tuple(config.seeds)},
        lambda lanes: task.program(scale, lanes),
        config.schedule(config.steps, config.steps // config.num_records),
        workers=config.workers(scale),
        defined_by=config.pick('dataset', 'model', 'model_options',
                               'batch_size', 'window'),
        also=also)
    yield [part('base', 1, lambda at: {'gain': 1.}, rate=config.learning_rates)]
    rate = float(tuned(done['base']))
    def arm(scale):
      gains = {'adascale': 0., 'linear': float(scale), 'identity': 1.}
      return part(f'scale_{scale}', scale, lambda at: {'rate': rate, 'gain': gains[at['arm']]}, arm=tuple(gains))
    yield [arm(s) for s in config.scales]
    def control(scale):
      taken = done[f'scale_{scale}'].taken.isel(step=-1).sel(arm='adascale')
      return part(f'constant_{scale}', scale, lambda at: {'rate': rate, 'gain': config.steps / max(float(taken.sel(seed=at['seed'])), 1)}, arm=('constant',))
    yield [control(s) for s in config.scales[-1:]]

  def reduce(self, config, done):
    return dict(done)

  def summarize(self, config, d):
    base = d['base']
    print(base.loss.isel(step=-1, drop=True).mean('seed').values, base.accuracy.isel(step=-1).mean('seed').values)
    base = base.sel(rate=tuned(base))
    g = gradiv.Estimate(base.sq_norm.values, base.variance.values)
    print('B_simple', (base.variance/base.sq_norm).mean('seed').values[::5])
    l0 = base.loss.isel(step=-1)
    for name, both in d.items():
     if name == 'base': continue
     s = int(name.split('_')[1])
     for arm in both.arm.values:
      x = both.sel(arm=arm)
      r = np.log(x.loss.isel(step=-1)/l0)
      inv = 1/np.asarray(gradiv.adascale_gain(g, batch_size=config.batch_size, scale=s))
      pred = np.trapezoid(inv, base.step.values, axis=-1)
      print(f'{s} {arm:12s} ratio {np.exp(r.mean().item()):.3f} +- {r.std(ddof=1).item()/len(r)**.5:.3f} acc {x.accuracy.isel(step=-1).mean().item():.4f} taken {x.taken.isel(step=-1).mean().item():.0f} pred {pred.mean():.0f} gain {config.steps/x.taken.isel(step=-1).mean().item():.2f}')
    return {}

  def claims(self, config, reduced):
    return []

def tuned(base):
  return base.loss.isel(step=-1, drop=True).mean('seed', skipna=False).idxmin('rate')
