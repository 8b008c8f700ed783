"""The flags of `overhead.examples`; nothing here imports JAX."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag
from experiments.overhead import sizes as sizes_lib

WORKLOADS = tuple(sizes_lib.WORKLOADS)
# Of `ways.WAYS`, named here so that checking flags needs no JAX.
WAYS = ('plain', 'vmap', 'jax_privacy', 'gradiv_clipping', 'gradiv',
        'gradiv_norms', 'gradiv_gram')


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags of this experiment."""

  workdir: str = flag('runs/overhead/examples', 'folder for the record')
  workloads: tuple[str, ...] = flag(
    WORKLOADS, 'networks to measure', WORKLOADS)
  sizes: str = flag('{}', 'other sizes by workload, as JSON: batch_size, '
                    'input_shape, num_classes and options of the model')
  skip: tuple[str, ...] = flag(
    tuple(f'{name}:gradiv_gram' for name in WORKLOADS[1:]),
    'ways to leave out, as workload:way')
  rounds: int = flag(15, 'steps of each way, taken in turn; the median counts')
  seconds: float = flag(10.0, 'begin no round of a workload after these, but '
                        'for the first three')

  def __post_init__(self):
    check = flags.check
    flags.check_values(self)
    pairs = {f'{name}:{way}' for name in WORKLOADS for way in WAYS
             if way != 'plain'}
    check(self.skip, 'skip', 'pairs such as resnet18:vmap, and never plain',
          lambda skip: set(skip) <= pairs)
    check(self.rounds, 'rounds', 'at least 1', lambda n: n >= 1)
    check(self.seconds, 'seconds', 'at least 0', lambda s: s >= 0)
    changes = flags.options(self, 'sizes')
    check(self.sizes, 'sizes', f'one object for each of {", ".join(WORKLOADS)}',
          lambda _: set(changes) <= set(WORKLOADS)
          and all(isinstance(x, dict) for x in changes.values()))
    for name in changes:
      self.sizes_of(name)

  def sizes_of(self, name: str) -> sizes_lib.Sizes:
    """Return the sizes of a workload, as the flags change them."""
    changes = flags.options(self, 'sizes')
    return sizes_lib.resized(name, changes.get(name, {}))
