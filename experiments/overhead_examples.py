"""Runs `overhead_examples`; see `experiments.overhead.examples`."""

from experiments.common import flags
from experiments.overhead import examples

if __name__ == '__main__':
  flags.run(examples.run, examples.Config)
