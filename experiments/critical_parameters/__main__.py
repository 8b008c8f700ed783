"""Runs `critical_parameters`; see `experiments.critical_parameters`."""

from experiments.common import cli
from experiments.critical_parameters.config import Config

if __name__ == '__main__':
  cli.main(Config, 'experiments.critical_parameters.study:Critical')
