"""Runs `adascale`; see `experiments.adascale`."""

from experiments.adascale.config import Config
from experiments.adascale.study import AdaScale
from experiments.common import cli

if __name__ == '__main__':
  cli.main(AdaScale(), Config)
