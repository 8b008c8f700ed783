"""The arms that `decentralized` compares: an optimizer, and where it looks.

  ssgd        the mean of the gradients, at common parameters
  ssgd_noise  the same, but each worker adds noise of its own to the parameters
              before it takes its gradient: SSGD*
  dpsgd_*     parameters of each worker's own, mixed over a graph
  imposed     ssgd, its rate at each step multiplied by what the effective rate
              of DPSGD was there: the warm-up without the decentralization
  lamb        You et al., `Large Batch Optimization
              <https://arxiv.org/abs/1904.00962>`_, 2019, synchronous

Two graphs are those of the paper's figures. 'complete' (Fig. 2): all average
with all, and only the gradients are taken at parameters of each worker's own.
'two_neighbors' (Fig. 5): six workers, two neighbors on each side. In the large
runs "a learner randomly picks a neighbor", and the papers cited there do it in
two ways: in pairs ('random') or on a ring in random order ('random_ring').
"""

import dataclasses

from experiments.decentralized.config import FIG_5_WORKERS

LABELS = {
  'ssgd': 'SSGD', 'ssgd_noise': 'SSGD*', 'imposed': 'SSGD, imposed rate',
  'lamb': 'LAMB', 'dpsgd_random': 'DPSGD, random pairs',
  'dpsgd_random_ring': 'DPSGD, random ring', 'dpsgd_ring': 'DPSGD, ring',
  'dpsgd_two_neighbors': 'DPSGD, two neighbors a side',
  'dpsgd_exponential': 'DPSGD, exponential graph',
  'dpsgd_complete': 'DPSGD, all with all'}


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train, over all rates and seeds of its lanes.

  Attributes:
    name: 'ssgd', 'ssgd_noise', 'dpsgd_' and a graph, 'imposed' or 'lamb'.
    domain: 'images' or 'text'.
    batch_size: Total over the workers.
    rates: One lane each, for each seed.
    seeds: Of the independent runs.
    num_workers: How many.
    is_measured: Whether the effective rate and the like are recorded.
  """

  name: str
  domain: str
  batch_size: int
  rates: tuple[float, ...]
  seeds: tuple[int, ...]
  num_workers: int
  is_measured: bool = False

  @property
  def part(self) -> str:
    """Name its folder."""
    return f'{self.domain}/batch_{self.batch_size:05d}/{self.name}'

  @property
  def label(self) -> str:
    """Name it for a reader."""
    return LABELS[self.name]

  @property
  def topology(self) -> str | None:
    """Name the graph; None where parameters are common."""
    head, _, tail = self.name.partition('_')
    return tail if head == 'dpsgd' else None

  @property
  def takes_gradient_at_mean(self) -> bool:
    """Tell whether all workers take their gradients at the same place."""
    return not self.topology and self.name != 'ssgd_noise'


def list_arms(config) -> list[Arm]:
  """List all arms, those that others need first."""
  return [*(_of_images(config) if 'images' in config.domains else ()),
          *(_of_text(config) if 'text' in config.domains else ())]


def _of_images(config):
  """List the arms of images.

  All at the first batch size; of others, the two that the paper is about.
  Graphs but the first are compared at the rate in focus, with few seeds.
  """
  def make(name, size=config.batch_sizes[0], rates=config.learning_rates,
           seeds=config.seeds, is_measured=False, workers=config.num_workers):
    return Arm(name, 'images', size, rates, tuple(seeds), workers, is_measured)

  main, few = config.main_arm, config.seeds[:config.few_seeds]
  for i, size in enumerate(config.batch_sizes):
    yield make(main, size, is_measured=not i)
    yield make('ssgd', size, is_measured=not i)
  yield make('ssgd_noise')
  yield make('imposed')
  yield make('lamb', rates=config.lamb_rates, seeds=few)
  for graph in config.topologies[1:]:
    yield make(f'dpsgd_{graph}', rates=(config.focus_rate,), seeds=few,
               is_measured=True)
  if config.fig_5_rates:
    size = config.fig_5_batch_size
    for name in ('dpsgd_two_neighbors', 'ssgd', 'ssgd_noise'):
      yield make(name, size, config.fig_5_rates, workers=FIG_5_WORKERS)


def _of_text(config):
  seeds = range(config.seed, config.seed + config.text_seeds)
  for name in (config.main_arm, 'ssgd'):
    yield Arm(name, 'text', config.text_batch_size,
              config.text_learning_rates, tuple(seeds), config.num_workers)
