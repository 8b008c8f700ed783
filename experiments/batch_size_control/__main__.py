"""Runs `batch_size_control`; see `experiments.batch_size_control`."""

from experiments.batch_size_control.config import Config
from experiments.common import cli

if __name__ == '__main__':
  cli.main(Config, 'experiments.batch_size_control.study:BatchSizeControl')
