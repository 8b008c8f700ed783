"""Runs `overhead_examples`; see `experiments.overhead.examples`."""

from experiments.common import cli
from experiments.overhead import examples

if __name__ == '__main__':
  cli.run(examples.Config, 'experiments.overhead.examples:run')
