"""Flags of a small study of batch sizes."""

from experiments.gradient_diversity.batches import config as config_lib

SMALL = config_lib.Config(
  workdir='unset', train_examples=64, batch_sizes=(16, 32),
  replications=(1., 2.), learning_rates=(0.1, 0.4), passes=2, num_seeds=2,
  num_twins=2, reference_batch_size=16, num_workers=4, target_loss=2.0,
  looks=4)
