"""Runs `gradient_diversity`; see `experiments.gradient_diversity`."""

from experiments.common import flags
from experiments.engine import signals
from experiments.gradient_diversity.batches import (
  analysis as diversity_report,
  study as diversity_training,
)
from experiments.gradient_diversity.config import Config
from experiments.gradient_diversity.mechanisms import (
  analysis as mechanism_report,
  study as mechanism_training,
)


def run(config: Config) -> dict:
  """Train, tabulate and draw; return the summary."""
  training, report = {
    'batches': (diversity_training, diversity_report),
    'mechanisms': (mechanism_training, mechanism_report)}[config.study]
  with signals.listen() as stop:
    training.train_all(config, stop)
  return report.report(config)


if __name__ == '__main__':
  flags.run(run, Config)
