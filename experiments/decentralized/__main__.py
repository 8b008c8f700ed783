"""Runs `decentralized`; see `experiments.decentralized`."""

from experiments.common import cli
from experiments.decentralized.config import Config
from experiments.decentralized.study import Decentralized

if __name__ == '__main__':
  cli.main(Decentralized(), Config)
