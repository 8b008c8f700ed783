"""Runs `agreement_filtering`; see `experiments.agreement_filtering`."""

from experiments.agreement_filtering.config import Config
from experiments.common import cli

if __name__ == '__main__':
  cli.main(Config, 'experiments.agreement_filtering.study:Filtering')
