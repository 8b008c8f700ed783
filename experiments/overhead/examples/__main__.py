"""Runs `overhead.examples`; see `experiments.overhead.examples`."""

from experiments.common import cli
from experiments.overhead.examples.config import Config

if __name__ == '__main__':
  cli.run(Config, 'experiments.overhead.examples.measuring:run')
