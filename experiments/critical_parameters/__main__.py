"""Runs `critical_parameters`; see `experiments.critical_parameters`."""

from experiments.common import flags
from experiments.critical_parameters import report, study
from experiments.critical_parameters.config import Config
from experiments.engine import signals


def run(config: Config) -> dict:
  """Run what is not there yet, tabulate and draw; return the summary."""
  with signals.listen() as stop:
    study.run_all(config, stop)
  return report.report(config)


if __name__ == '__main__':
  flags.run(run, Config)
