"""Runs `adascale`; see `experiments.adascale`."""

from experiments.adascale.config import Config
from experiments.common import cli

if __name__ == '__main__':
  cli.main(Config, 'experiments.adascale.study:AdaScale')
