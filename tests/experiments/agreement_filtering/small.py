"""Flags of a small run."""

from experiments.agreement_filtering import config as agreement_filtering

SMALL = agreement_filtering.Config(
  workdir='unset', noise_rates=(0., 0.5), thresholds=(0.5, 1.),
  control_threshold=0.5, learning_rates=(0.003, 0.1), steps=12, num_records=3,
  num_seeds=2, num_workers=3, model_options='{"hidden": [8]}')
