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

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util

import gradiv
from experiments.decentralized.config import FIG_5_WORKERS
from gradiv.decentralized import topology

TOPOLOGIES = {
  'random': topology.random_matching,
  'random_ring': topology.random_ring,
  'ring': lambda n, count: topology.ring(n),
  'two_neighbors': lambda n, count: topology.circulant(n, (1, 2, -1, -2)),
  'exponential': lambda n, count: topology.exponential(n),
  'complete': lambda n, count: topology.complete(n),
}
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


def mixing_matrices(config, arm: Arm) -> np.ndarray:
  """Make W, or the sequence of them that is used in turn."""
  return TOPOLOGIES[arm.topology](arm.num_workers, config.num_matchings)


def contraction(w: np.ndarray) -> float:
  """Compute ρ² = ‖E WᵀW − 11ᵀ/n‖₂, what mixing leaves of a disagreement.

  >>> round(contraction(topology.ring(5)), 3)
  0.291
  """
  bank = topology.check(w)
  squares = np.einsum('tki,tkj->ij', bank, bank) / len(bank)
  return float(np.linalg.norm(squares - 1 / len(squares), 2))


def make_optimizer(
  config, arm: Arm, lane: dict, axis_name: gradiv.AxisName
) -> optax.GradientTransformation:
  """Build the chain of an arm; all share the warm-up and the cuts."""
  cuts = jnp.array([share * config.steps_of(arm.domain)
                    for share in config.rate_cuts])

  def rate(count):
    warm = jnp.minimum(1, (count + 1) / max(config.warmup_steps, 1))
    imposed = lane['ratio'][count] if arm.name == 'imposed' else 1
    return lane['rate'] * warm * imposed * 0.1**jnp.sum(count >= cuts)

  if arm.topology:
    return optax.chain(optax.sgd(rate), mix_in_turn(
      mixing_matrices(config, arm), axis_name))
  optimizer = optax.lamb if arm.name == 'lamb' else optax.sgd
  return optax.chain(gradiv.aggregate_by_mean(axis_name), optimizer(rate))


def mix_in_turn(
  bank: np.ndarray, axis_name: gradiv.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Make a step of DPSGD, whose turn is that of the extra argument `step`.

  `gradiv.mix_by_gossip` counts by itself, once a lane; where lanes lie under
  `jax.vmap`, a switch by such a count would mix by every matrix and pick.
  """
  each = [gradiv.mix_by_gossip(w, axis_name, order='awc')
          for w in topology.check(bank)]

  def update_fn(updates, state, params=None, *, step, **extra_args):
    del extra_args
    return jax.lax.switch(step % len(each), [tx.update for tx in each],
                          updates, state, params)

  return optax.GradientTransformationExtraArgs(each[0].init, update_fn)


def place(config, arm: Arm, params, key: jax.Array):
  """Choose where this worker takes its gradient."""
  if arm.name != 'ssgd_noise':
    return params
  # One draw for all leaves: a draw for each takes XLA seconds to compile.
  flat, unravel = flatten_util.ravel_pytree(params)
  noise = jax.random.normal(key, flat.shape, flat.dtype)
  return unravel(flat + config.noise_stddev * noise)
