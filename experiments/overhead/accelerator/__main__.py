"""What gradiv costs on one accelerator, in at most eight minutes.

  make accelerator

Runs on whatever device JAX finds, and writes each row as soon as it is
measured, so that nothing is lost if time runs out. Two tables of peers that
use PyTorch, Opacus and TorchJD, come from the same device in a process of
their own. Only ratios within one run carry over to another machine.
"""

from experiments.common import cli
from experiments.overhead.accelerator.config import Config

if __name__ == '__main__':
  cli.run(Config, 'experiments.overhead.accelerator.measuring:main')
