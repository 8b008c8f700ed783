"""The arms that `decentralized` compares: an optimizer, and where it looks.

  ssgd        the mean of the gradients, at common parameters
  ssgd_noise  the same, each gradient at parameters of its own noise: SSGD*
  dpsgd_*     parameters of each worker's own, mixed over a topology
  imposed     ssgd, its rate at each step multiplied by what the effective rate
              of DPSGD was there: only the warm-up, without the decentralization
  lamb        You et al., `Large Batch Optimization
              <https://arxiv.org/abs/1904.00962>`_, 2019, synchronous
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util

import gradiv
from gradiv.decentralized import topology

TOPOLOGIES = {
  'random': lambda n, count: topology.random_matching(n, count),
  'ring': lambda n, count: topology.ring(n),
  'exponential': lambda n, count: topology.exponential(n),
  'complete': lambda n, count: topology.complete(n),
}


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train, over all rates and seeds of its lanes.

  Attributes:
    name: 'ssgd', 'ssgd_noise', 'dpsgd_' and a topology, 'imposed' or 'lamb'.
    domain: 'images' or 'text'.
    batch_size: Total over the workers.
    learning_rates: One lane each, for each seed.
    num_seeds: How many.
    is_measured: Whether the effective rate and the like are recorded.
  """

  name: str
  domain: str
  batch_size: int
  learning_rates: tuple[float, ...]
  num_seeds: int
  is_measured: bool

  @property
  def part(self) -> str:
    """Name its folder."""
    return f'{self.domain}/batch_{self.batch_size:05d}/{self.name}'

  @property
  def topology(self) -> str | None:
    """Name who mixes with whom; None where parameters are common."""
    head, _, tail = self.name.partition('_')
    return tail if head == 'dpsgd' else None

  @property
  def takes_gradient_at_mean(self) -> bool:
    """Tell whether all workers look at the same place."""
    return not self.topology and self.name != 'ssgd_noise'

  def settings(self, seed: int) -> list[tuple[float, int]]:
    """List (learning rate, seed) of each lane."""
    return list(itertools.product(
      self.learning_rates, range(seed, seed + self.num_seeds)))


def list_arms(config) -> list[Arm]:
  """List all arms, those that others need first.

  All of them at the first batch size; of others, the two that the paper is
  about. Topologies but the first are compared at the rate in focus.
  """
  arms, main = [], f'dpsgd_{config.topologies[0]}'
  first = config.batch_sizes[0]
  for size in config.batch_sizes if 'images' in config.domains else ():
    rates = config.rates(size)
    make = lambda name, rates=rates, size=size: Arm(
      name, 'images', size, rates, config.num_seeds, size == first and
      name not in ('imposed', 'lamb'))
    arms += [make(main), make('ssgd')]
    if size == first:
      arms += [
        make('ssgd_noise'), make('imposed'),
        make('lamb', config.lamb_rates),
        *(make(f'dpsgd_{name}', (config.focus_rate,))
          for name in config.topologies[1:])]
  if 'text' in config.domains:
    arms += [Arm(name, 'text', config.text_batch_size,
                 config.text_learning_rates, config.text_seeds, False)
             for name in (main, 'ssgd')]
  return arms


def mixing_matrices(config, arm: Arm) -> np.ndarray:
  """Make W, or a bank of them: random pairs."""
  return TOPOLOGIES[arm.topology](config.num_workers, config.num_matchings)


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
  """Build the chain of an arm; all share the warm-up."""
  def rate(count):
    warm = jnp.minimum(1, (count + 1) / max(config.warmup_steps, 1))
    imposed = lane['ratio'][count] if arm.name == 'imposed' else 1
    return lane['learning_rate'] * warm * imposed

  if arm.topology:
    return optax.chain(optax.sgd(rate), mix_in_turn(
      mixing_matrices(config, arm), axis_name))
  optimizer = optax.lamb if arm.name == 'lamb' else optax.sgd
  return optax.chain(gradiv.aggregate_by_mean(axis_name), optimizer(rate))


def mix_in_turn(
  bank: np.ndarray, axis_name: gradiv.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Make a step of DPSGD, whose turn is that of `step`, as an extra argument.

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
