"""Runs `agreement_filtering`; see `experiments.agreement_filtering`."""

from experiments.agreement_filtering import analysis, study
from experiments.agreement_filtering.config import Config
from experiments.common import flags
from experiments.engine import signals


def run(config: Config) -> dict:
  """Train, test, tabulate and draw; return the summary."""
  with signals.listen() as stop:
    study.train_all(config, stop)
  return analysis.report(config)


if __name__ == '__main__':
  flags.run(run, Config)
