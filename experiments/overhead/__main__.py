"""Runs `overhead`; see `experiments.overhead.aggregation`."""

from experiments.common import cli
from experiments.overhead import aggregation

if __name__ == '__main__':
  cli.run(aggregation.main, aggregation.Config)
