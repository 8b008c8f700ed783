"""Flags of a run of seconds, and results of branches whose law is known."""

import numpy as np
import xarray as xr

from experiments.critical_batch import advice, analysis
from experiments.critical_batch.config import Config

SMALL = Config(
  workdir='unset', num_seeds=2, batch_size=4, factors=(1, 2), points=(4, 8),
  branch_steps=4, record_steps=2, model_options='{"hidden": [4]}',
  eval_examples=32, text_batch_size=4, text_length=8, text_eval_examples=8,
  text_model_options='{"width": 4, "heads": 1, "layers": 1}')

CONFIG = Config(workdir='unset', domains=('images',), num_seeds=4)
RECORDS = 9


def log_losses(noise: float, seeds: int = 4, decay: float = 1.0) -> np.ndarray:
  """Return [seed, factor, record] where batch sizes cost what B_S says.

  The log loss of the smallest batch falls by `decay` along the branch.
  """
  sizes = np.array(CONFIG.setting('images').sizes)
  progress = (sizes[0] + noise) / (sizes + noise)
  lines = -decay * progress[:, None] * np.linspace(0, 1, RECORDS)
  return np.random.default_rng(0).normal(0, 1e-3, (seeds, 1, 1)) + lines


def reduced(noises=(50.0, 100.0, 200.0), true_noises=None, ramp: float = 0.0,
            ramp_share: float = 0.5) -> dict[str, xr.Dataset]:
  """Make what `reduce` returns.

  Args:
    noises: ρ at each point, as it was tracked.
    true_noises: As the branches obey it; by default the same.
    ramp: The log loss of all ramps over that of the small batch.
    ramp_share: Of the small batch's steps that ramps take.
  """
  log_loss = np.stack(
    [log_losses(noise) for noise in true_noises or noises], 1)
  arms = ['bound', 'predicted', 'measured']
  fixed = log_losses(100.0)[..., -1]
  signal = np.outer([1.01, 0.99, 1.02, 0.98], 1 / (1 + np.array(noises)))
  dims = ('seed', 'point')
  found = xr.Dataset({
    'log_loss': ((*dims, 'factor', 'record'), log_loss),
    'signal': (dims, signal), 'signal_low': (dims, signal / 1.2),
    'signal_high': (dims, signal * 1.2), 'window': (dims, 0 * signal + 64),
    'at_least': (dims, 0.7 / signal), 'until_known': (dims, 0 * signal),
    'fixed': (('seed', 'factor'), fixed),
    'ramp': (('seed', 'arm'), fixed[:, :1] + ramp * np.ones(3)),
    'ramp_factors': (('arm', 'point'), np.full((3, 3), 2)),
    'ramp_steps': ('arm', np.full(3, ramp_share * CONFIG.steps))},
    {'point': list(CONFIG.points), 'factor': list(CONFIG.factors),
     'arm': arms, 'seed': range(4)})
  sizes = analysis.of_points(CONFIG.setting('images'), found)
  said = advice.of_readings(found, CONFIG.batch_size)
  return {'images': found.merge(said).assign(
    size=(('arm', 'point', 'end'), [sizes[arm] for arm in arms]))}
