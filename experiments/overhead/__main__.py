"""Runs `overhead`; see `experiments.overhead.aggregation`."""

from experiments.common import flags
from experiments.overhead import aggregation

if __name__ == '__main__':
  flags.run(aggregation.main, aggregation.Config)
