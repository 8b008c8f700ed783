"""Flags of an optimizer do what the names say."""

import dataclasses
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments.common import flags, optimizers, parsing
from experiments.engine import records, trainer
from tests import helpers
from tests.experiments.engine import small


@dataclasses.dataclass(frozen=True)
class Config(optimizers.Flags, flags.Config):
  """A paper's."""


PARAMS = {'w': jnp.array([1.0, -2.0, 3.0])}
GRADS = {'w': jnp.array([0.3, 0.4, 1.2])}  # of norm 1.3


def steps_of(tx, count=5):
  """Take some steps with one gradient."""
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(count):
    updates, state = tx.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


class OptimizersTest(parameterized.TestCase):

  def test_a_config_has_the_flags(self):
    config = parsing.parse(Config, [
      'x', '--workdir=w', '--optimizer=adamw', '--rate_schedule=cosine',
      '--warmup_steps=10', '--clip_norm=1', '--weight_decay=0.1',
      '--ema=0.99'])
    self.assertEqual(
      (config.optimizer, config.rate_schedule, config.warmup_steps,
       config.clip_norm, config.weight_decay, config.ema),
      ('adamw', 'cosine', 10, 1.0, 0.1, 0.99))
    self.assertEqual(config.schedule(4, 2), trainer.Schedule(4, 2, 20.0))

  @parameterized.parameters(
    'optimizer=sdg', 'momentum=1', 'rate_schedule=cos', 'rate_cuts=0.5,0.2',
    'warmup_steps=-1', 'clip_norm=-1', 'weight_decay=-1', 'ema=1')
  def test_a_bad_value_names_its_flag(self, value):
    name = value.split('=')[0]
    with self.assertRaisesRegex(flags.UsageError, f'--{name}='):
      parsing.parse(Config, ['x', '--workdir=w', f'--{value}'])

  def test_the_checks_of_the_paper_stay(self):
    with self.assertRaisesRegex(flags.UsageError, '--num_seeds=0'):
      Config(workdir='w', num_seeds=0)

  @parameterized.parameters(
    (dict(), lambda: optax.sgd(0.1)),
    (dict(optimizer='momentum', momentum=0.8), lambda: optax.sgd(0.1, 0.8)),
    (dict(optimizer='adam'), lambda: optax.adam(0.1)),
    (dict(optimizer='adamw', weight_decay=0.2),
     lambda: optax.adamw(0.1, weight_decay=0.2)),
    (dict(weight_decay=0.2), lambda: optax.chain(
      optax.add_decayed_weights(0.2), optax.sgd(0.1))),
    (dict(clip_norm=0.65), lambda: optax.chain(
      optax.clip_by_global_norm(0.65), optax.sgd(0.1))))
  def test_it_is_that_of_optax(self, options, make):
    ours = optimizers.make(optimizers.Flags(**options), 0.1, 100)
    helpers.assert_close(steps_of(ours)[0], steps_of(make())[0], 1e-6, 1e-7)

  @parameterized.parameters(
    ('constant', [0, 0.5, 1, 1, 1, 1]), ('linear', [0, 0.5, 1, 0.75, 0.5, 0]),
    ('cosine', [0, 0.5, 1, 0.8536, 0.5, 0]), ('step', [0, 0.5, 1, 1, 1, 0.01]))
  def test_rates(self, name, wanted):
    """Of 20 steps, 4 warm up; cuts are at 13 and 17."""
    config = optimizers.Flags(rate_schedule=name, warmup_steps=4,
                              rate_cuts=(0.65, 0.85))
    factor = optimizers.rate_factor(config, 20)
    np.testing.assert_allclose(
      [factor(step) for step in (0, 2, 4, 8, 12, 20)], wanted, 1e-3, 1e-6)
    with self.assertRaisesRegex(flags.UsageError, 'below the 4 steps'):
      optimizers.rate_factor(config, 4)

  def test_the_average_of_the_params_is_evaluated(self):
    """In lanes with rates of their own, as papers use it."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = optimizers.Flags(ema=0.5)
    state = small.train(
      folder, trainer.Schedule(4, 1), view=optimizers.averaged,
      make_optimizer=lambda lane: optax.chain(
        small.gradiv.aggregate_by_mean('workers'),
        optimizers.make(config, lane['learning_rate'], 4)))
    program = small.program()
    rows = program.fetch(np.arange(4))
    for lane in range(2):
      params = jax.tree.map(lambda x: x[lane], jax.vmap(program.init)(
        program.lanes))
      average = params
      for step in range(4):
        grads = jax.grad(small.loss)(params, small.X[rows[lane, step]], None)
        params = jax.tree.map(
          lambda p, g: p - program.lanes['learning_rate'][lane] * g,
          params, grads)
        average = jax.tree.map(lambda a, p: (a + p) / 2, average, params)
      np.testing.assert_allclose(state['params']['w'][lane], params['w'], 1e-4)
      last = records.read(folder / 'metrics.jsonl')[-1]
      np.testing.assert_allclose(
        last['norm'][lane], np.sum(average['w']**2), 1e-4)

  def test_without_an_average_params_are_evaluated(self):
    _, state = steps_of(optimizers.make(optimizers.Flags(), 0.1, 10), 1)
    self.assertIs(optimizers.averaged(PARAMS, state), PARAMS)


if __name__ == '__main__':
  absltest.main()
