"""Flags of a small run, and how to find its arms."""

from experiments.decentralized import (
  arms as decentralized_arms,
  config as decentralized,
)

SMALL = decentralized.Config(
  workdir='unset', domains=('images',), num_workers=3, num_seeds=2, few_seeds=1,
  roundings=1, batch_sizes=(12, 6), topologies=('random', 'complete'),
  num_matchings=2, steps=4, num_records=2, measure_every=1, imposed_window=1,
  learning_rates=(0.5, 4.), focus_rate=4., lamb_rates=(0.01,),
  fig_5_rates=(0.5,), target_accuracy=0.1, measured_examples=64,
  eval_batch_size=64, model='logistic', model_options='{}', text_length=64,
  text_batch_size=6, text_steps=4, text_seeds=2, text_examples=8,
  text_learning_rates=(1.,), text_model_options='{"embed": 2, "hidden": 3}')


def find(config, name, domain='images'):
  return next(arm for arm in decentralized_arms.list_arms(config)
              if (arm.name, arm.domain) == (name, domain))
