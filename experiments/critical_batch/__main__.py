"""Runs `critical_batch`; see `experiments.critical_batch`."""

from experiments.common import cli
from experiments.critical_batch.config import Config

if __name__ == '__main__':
  cli.main(Config, 'experiments.critical_batch.study:CriticalBatch')
