"""Runs `overhead`; see `experiments.overhead`."""

from experiments.common import cli
from experiments.overhead.config import Config

if __name__ == '__main__':
  cli.run(Config, 'experiments.overhead.running:main')
