"""State of each worker's own: the same on every backend, and resumed."""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments import data
from experiments.engine import records, signals, trainer
from tests import helpers

EXAMPLES, WORKERS, STEPS = 32, 4, 12
IMAGES = np.random.default_rng(1).normal(size=(EXAMPLES, 6)).astype('f')


def program(workers, private=('opt_state',)):
  """Two lanes of SGD with error feedback; and with params of their own."""
  axis = workers.axis_name

  def make_optimizer(lane):
    wire = () if 'params' in private else (gradiv.aggregate_by_mean(axis),)
    return optax.chain(
      gradiv.with_error_feedback(gradiv.keep_top_k(0.3)), *wire,
      optax.sgd(lane['learning_rate']))

  return trainer.Program(
    lanes={'seed': jnp.array([0, 1], jnp.uint32), 'order': jnp.array([0, 1]),
           'learning_rate': jnp.array([0.1, 0.3], jnp.float32)},
    data=jnp.asarray(IMAGES),
    init=lambda lane: {'w': jax.random.normal(
      trainer.key_for(lane['seed'], 'init'), (6,))},
    make_optimizer=make_optimizer,
    fetch=lambda steps: np.stack([
      data.order(s, steps, 8, EXAMPLES, sampling='epoch') for s in (0, 1)]),
    batch=lambda arrays, lane, rows: arrays[rows],
    loss=lambda params, x, key: jnp.mean((x @ params['w'] - x[:, 0])**2),
    evaluate=lambda arrays, lane, params: {'norm': jnp.sum(params['w']**2)},
    read=lambda state: {'error': optax.tree.get(state, 'error')['w']},
    private=private)


@pytest.mark.slow
class PrivateTest(parameterized.TestCase):

  def train(self, folder, backend='vmap', steps=STEPS, stop=None, **kwargs):
    workers = trainer.Workers(WORKERS, backend)
    return trainer.train(
      program(workers, **kwargs), trainer.Schedule(steps, 3, 0.), folder,
      config={}, workers=workers, stop=stop)

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  @parameterized.parameters('pmap', 'shard_map')
  def test_backends_agree(self, backend):
    for private in (('opt_state',), ('params', 'opt_state')):
      states = [self.train(self.folder(), b, private=private)
                for b in ('vmap', backend)]
      helpers.assert_close(*states, 1e-4, 1e-5)

  def test_params_of_their_own_are_averaged_to_be_seen(self):
    """Without a wire each worker trains alone, on its share of the batches."""
    state = self.train(self.folder(), private=('params', 'opt_state'))
    rows = data.order(0, range(STEPS), 8, EXAMPLES, sampling='epoch')
    finals = []
    for worker in np.split(rows, WORKERS, axis=1):
      tx = optax.chain(gradiv.with_error_feedback(gradiv.keep_top_k(0.3)),
                       optax.sgd(0.1))
      w = jax.random.normal(trainer.key_for(jnp.uint32(0), 'init'), (6,))
      own = tx.init(w)
      for batch in worker:
        x = IMAGES[batch]
        g = jax.grad(lambda w: jnp.mean((x @ w - x[:, 0])**2))(w)
        u, own = tx.update(g, own)
        w = optax.apply_updates(w, u)
      finals.append(w)
    np.testing.assert_allclose(
      state['params']['w'][0], np.mean(finals, 0), 1e-4)

  def test_resumed_bit_for_bit(self):
    folder = self.folder()
    whole = self.train(folder / 'whole')
    stop = signals.Stop()
    stop._handle(2, None)
    with self.assertRaises(signals.Interrupted):
      self.train(folder / 'cut', stop=stop)
    resumed = self.train(folder / 'cut')
    helpers.assert_same(resumed, whole)
    self.assertEqual(*(records.read(folder / name / 'metrics.jsonl')
                       for name in ('cut', 'whole')))
    # Once more: what is done is read, and reduced alike.
    helpers.assert_same(self.train(folder / 'cut'), whole)


if __name__ == '__main__':
  absltest.main()
