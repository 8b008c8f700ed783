"""The line that a run ends with: of tracked moments, and of nothing else."""

import contextlib
import io
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

import gradiv
from experiments import engine
from experiments.engine import advising, records
from tests.experiments.engine import small


def tracked(steps, **options):
  """Track ‖∇F‖² = 1.2 ± 0.2 and tr Σ = 192; B_S is 161."""
  tx = gradiv.track_moments(**options)
  state = tx.init(())
  update = jax.jit(lambda state, moments: tx.update(
    (), state, moments=moments)[1])
  for i in range(steps):
    sample = gradiv.Moments(8., 2., 1.2 + .2 * (-1)**i + 12, 84.)
    state = update(state, sample)
  return state


def say(*args):
  """Return what is printed, and what is kept."""
  with (tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(io.StringIO()) as err):
    path = pathlib.Path(folder)
    advising.say(path, *args)
    kept = path / 'advice.json'
    return err.getvalue(), (
      json.loads(kept.read_text()) if kept.exists() else None)


class AdviceTest(absltest.TestCase):

  def test_is_that_of_the_first_state_and_of_the_first_lane(self):
    one, other = tracked(64), tracked(0)
    self.assertIs(
      advising.first_tracker((optax.EmptyState(), one, other)), one)
    expected = str(gradiv.advise(gradiv.read_moments(one), 16))
    lanes = jax.tree.map(lambda x, y: jnp.stack([x, y]), one, other)
    self.assertEqual(say('a run', lanes, 16, 2), (
      f'a run, training 1 of 2: {expected}\n',
      {'sentence': expected, 'batch_size': 16, 'lanes': 2}))

  def test_nothing_tracked_is_nothing_said(self):
    self.assertIsNone(advising.first_tracker(
      optax.adam(.1).init(jnp.zeros(2))))
    for state in (None, tracked(0)):
      self.assertIsNone(advising.advice(state, 16))
      self.assertEqual(say('a run', state, 16, 1), ('', None))
    self.assertEqual(say('a run', tracked(3), 0, 1), ('', None))


class FitTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def said(self, optimizer, num_workers):
    with contextlib.redirect_stderr(io.StringIO()) as err:
      engine.fit(
        lambda key: {'w': jnp.zeros(3)}, small.loss, optimizer,
        lambda step: small.X[np.random.default_rng(step).integers(0, 32, 8)],
        workdir=self.folder, steps=4, title='mine',
        workers=engine.Workers(num_workers))
    self.assertIn(f'report: {self.folder}/report.html', err.getvalue())
    return [line for line in err.getvalue().splitlines()
            if line.startswith('mine: batch')]

  def test_a_chain_that_tracks_records_and_ends_with_one_line(self):
    line, = self.said(optax.chain(
      gradiv.track_moments('workers', batch_size=2), engine.keep_gram(4),
      gradiv.aggregate_by_mean('workers'), optax.sgd(.1)), 4)
    self.assertStartsWith(line, 'mine: batch 8 ')  # of all workers together
    last = records.read(self.folder / 'metrics.jsonl')[-1]
    self.assertEqual((last['window'], last['batch_size_bound']), (0, None))
    self.assertContainsSubset(
      {'sq_norm', 'variance', 'batch_size_at_least', 'worker_gram'}, last)
    page = (self.folder / 'report.html').read_text()
    for text in (line.removeprefix('mine: b'), 'Cosines between workers',
                 'Finished · step 4 of 4'):
      self.assertIn(text, page)

  def test_a_kill_between_the_last_step_and_the_advice_loses_nothing(self):
    chain = optax.chain(
      gradiv.track_moments('workers', batch_size=2),
      gradiv.aggregate_by_mean('workers'), optax.sgd(.1))
    self.said(chain, 4)
    advice = (self.folder / 'advice.json').read_bytes()
    (self.folder / 'advice.json').unlink()
    half = self.folder / 'checkpoints' / 'step_00000002.removed'
    half.mkdir()
    self.assertLen(self.said(chain, 4), 1)
    self.assertEqual((self.folder / 'advice.json').read_bytes(), advice)
    self.assertFalse(half.exists())
    self.assertEmpty(self.said(chain, 4))

  def test_a_chain_that_does_not_ends_without(self):
    self.assertEmpty(self.said(optax.sgd(.1), 1))
    self.assertEqual(list(records.read(self.folder / 'metrics.jsonl')[-1]),
                     ['step', 'batch_loss'])


if __name__ == '__main__':
  absltest.main()
