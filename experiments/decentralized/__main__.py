"""Runs `decentralized`; see `experiments.decentralized`."""

from experiments.common import cli
from experiments.decentralized.config import Config

if __name__ == '__main__':
  cli.main(Config, 'experiments.decentralized.study:Decentralized')
