"""A study of a second: least squares in two stages, and a claim."""

import collections
import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments.common import flags, intervals, study, tables, tuning
from experiments.common.claims import Claim
from experiments.common.computed import Computed
from experiments.common.flags import flag
from experiments.common.parts import Trained
from experiments.engine import trainer

# By momentum: what this process has compiled.
COMPILED = collections.defaultdict(dict)
EXAMPLES = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of a tiny study."""

  num_workers: int = flag(1, 'workers that share each batch')
  num_seeds: int = flag(2, 'independent runs of each setting')
  batch_sizes: tuple[int, ...] = flag((2, 4), 'sizes of batches')
  rates: tuple[float, ...] = flag((0.01, 0.05), 'learning rates')
  momentum: float = flag(0.0, 'of SGD')
  steps: int = flag(6, 'of each run')
  target: float = flag(9.0, 'loss to reach, from about 14')


def make(batch_size, momentum, lanes):
  """Build lanes of least squares, from a start drawn by the seed."""
  seeds = sorted(set(lanes['seed'].tolist()))

  def init(lane):
    start = jnp.float32([1, 2, 3])
    return {'w': start * (1 + lane['seed'].astype(jnp.float32) / 10)}

  return trainer.Program(
    cache=COMPILED[momentum],
    lanes={'seed': jnp.asarray(lanes['seed'], jnp.uint32),
           'order': jnp.array([seeds.index(s) for s in lanes['seed']]),
           'rate': jnp.asarray(lanes['rate'], jnp.float32)},
    data=jnp.asarray(EXAMPLES),
    init=init,
    make_optimizer=lambda lane: optax.chain(
      gradiv.aggregate_by_mean('workers'),
      optax.sgd(lane['rate'], momentum)),
    fetch=lambda steps: np.stack([
      (np.arange(batch_size) + steps[:, None] + s) % 8 for s in seeds]),
    batch=lambda data, lane, rows: data[rows],
    loss=lambda params, x, key: jnp.mean((x @ params['w'])**2),
    evaluate=lambda data, lane, params: {
      'loss': jnp.mean((data @ params['w'])**2), 'w': params['w']})


class Tiny(study.Study):
  """Sweeps rates for each batch size; then runs the best of the first."""

  name, title, link = 'tiny', 'Tiny et al.', 'https://example.org'

  def __init__(self):
    self.built = []  # the parts whose programs were asked for, in order

  def part(self, config, name, batch_size, axes, **options):
    """Make a part that notes when its program is built."""
    def program(lanes):
      self.built.append(name)
      return make(batch_size, config.momentum, lanes)

    return Trained(
      name, axes, program, config.schedule(config.steps, 2),
      workers=config.workers(), dims={'w': ('axis',)},
      defined_by=config.pick('momentum') | {'batch_size': batch_size},
      **options)

  def stages(self, config, task, done):
    """Yield the sweeps; then what needs the first of them."""
    del task
    seeds = tuple(config.seeds)
    yield [self.part(config, f'sweep/batch_{b}', b,
                     {'rate': config.rates, 'seed': seeds})
           for b in config.batch_sizes]
    first = done[f'sweep/batch_{config.batch_sizes[0]}']
    best = first.rate[int(first.loss.isel(step=-1).mean('seed').argmin('rate'))]
    yield [
      self.part(config, 'best', 2, {'seed': seeds},
                also=lambda at: {'rate': float(best)},
                finish=lambda state, lanes: {
                  'norm': np.linalg.norm(state['params']['w'], axis=1)}),
      Computed('count', lambda stop: {'parts': len(done)})]

  def reduce(self, config, done):
    """Count the steps to the target."""
    sweep = done[f'sweep/batch_{config.batch_sizes[0]}']
    loss = sweep.loss.transpose('rate', 'seed', 'step').values
    return {'steps': tuning.steps_to(config.target, sweep.step.values, loss),
            'norm': done['best'].norm.values}

  def summarize(self, config, reduced):
    """Return lists."""
    return {name: x.tolist() for name, x in reduced.items()}

  def claims(self, config, reduced):
    """Claim that runs shrink."""
    return [Claim('shrinks', 'runs shrink', 'the final norm',
                  intervals.of_mean(reduced['norm']), (0, 100))]

  def tables(self, config, reduced, summary):
    """Show the steps."""
    return [tables.Table('Steps', ('rate', 'steps'), [
      (f'{rate:g}', f'{x.mean():.1f}')
      for rate, x in zip(config.rates, reduced['steps'])])]
