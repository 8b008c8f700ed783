"""Runs `decentralized`; see `experiments.decentralized`."""

from experiments.common import flags
from experiments.decentralized import analysis, study
from experiments.decentralized.config import Config
from experiments.engine import signals


def run(config: Config) -> dict:
  """Train, test the claims, tabulate and draw; return the summary."""
  with signals.listen() as stop:
    study.train_all(config, stop)
  return analysis.report(config)


if __name__ == '__main__':
  flags.run(run, Config)
