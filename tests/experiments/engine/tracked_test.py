"""What a run records of its gradients by itself, and the page it ends with."""

import contextlib
import functools
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

import gradiv
from experiments import engine
from experiments.engine import records, tracked
from tests.experiments.engine import small

PARAMS = {'a': {'w': jnp.zeros(2)}, 'b': {'w': jnp.zeros(3)}}


def after(optimizer, steps, num_workers=4):
  """Return the state after steps with random gradients."""
  state = optimizer.init(PARAMS)
  update = gradiv.map_workers(
    lambda g, s: optimizer.update(g, s)[1], 'workers', in_axes=(0, None),
    out_axes=None)
  rng = np.random.default_rng(0)
  grads = lambda: jax.tree.map(
    lambda x: jnp.float32(1 + rng.normal(size=(num_workers, *x.shape))), PARAMS)
  for _ in range(steps):
    last = grads()
    state = update(last, state)
  return state, last


class TrackedTest(absltest.TestCase):

  def test_is_what_the_reading_says(self):
    track = gradiv.track_moments('workers', batch_size=2)
    (state, _), _ = after(optax.chain(track, optax.scale(1.)), 20)
    reading = gradiv.read_moments(state)
    found = jax.jit(tracked.tracked)((state, optax.EmptyState()))
    self.assertGreater(reading.window, 0)
    low, high = reading.interval.of(gradiv.batch_size_bound)
    for name, value in {
        'sq_norm': reading.average.sq_norm, 'window': reading.window,
        'batch_size_bound': gradiv.batch_size_bound(reading.estimate),
        'batch_size_bound_low': low, 'batch_size_bound_high': high,
        'batch_size_at_least': reading.batch_size_at_least}.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)

  def test_is_not_known_at_first(self):
    (state, _), _ = after(optax.chain(
      gradiv.track_moments('workers', batch_size=2), optax.scale(1.)), 2)
    found = tracked.tracked(state)
    self.assertTrue(np.isnan(found['batch_size_bound']))
    self.assertEqual(found['window'], 0)

  def test_groups(self):
    track = gradiv.track_moments('workers', batch_size=2,
                                 groups=gradiv.by_layer)
    state, _ = after(track, 3)
    names = gradiv.group_names(PARAMS, gradiv.by_layer)
    reading = gradiv.read_moments(state)
    found = tracked.tracked(state, names)
    np.testing.assert_array_equal(found['variance/b'],
                                  reading.average.variance[1])
    np.testing.assert_array_equal(found['variance'],
                                  reading.whole.average.variance)

  def test_gram(self):
    state, grads = after(optax.chain(
      tracked.keep_gram(4), gradiv.aggregate_by_mean('workers')), 2)
    flat = np.concatenate(
      [x.reshape(4, -1) for x in jax.tree.leaves(grads)], 1)
    np.testing.assert_allclose(
      tracked.tracked(state)['worker_gram'], flat @ flat.T, rtol=1e-5)

  def test_nothing_tracked_is_nothing_recorded(self):
    self.assertEqual(tracked.tracked(optax.adam(.1).init(PARAMS)), {})


class FitTest(absltest.TestCase):

  def test_records_and_ends_with_a_page(self):
    optimizer = optax.chain(
      gradiv.track_moments('workers', batch_size=2), engine.keep_gram(4),
      gradiv.aggregate_by_mean('workers'), optax.sgd(.1))
    with (tempfile.TemporaryDirectory() as folder,
          contextlib.redirect_stderr(io.StringIO()) as err):
      fit = functools.partial(
        engine.fit, lambda key: {'w': jnp.zeros(3)}, small.loss, optimizer,
        lambda step: small.X[np.random.default_rng(step).integers(0, 32, 8)],
        workdir=folder, steps=4, every=2, workers=engine.Workers(4))
      fit()
      last = records.read(f'{folder}/metrics.jsonl')[-1]
      page = pathlib.Path(folder, 'report.html').read_text()
    self.assertContainsSubset(
      {'sq_norm', 'variance', 'window', 'worker_gram', 'batch_loss'}, last)
    self.assertIn(f'report: {folder}/report.html', err.getvalue())
    for text in ('Batch 8 cannot be judged yet', 'Signal against noise',
                 'Cosines between workers', 'Finished · step 4 of 4'):
      self.assertIn(text, page)


if __name__ == '__main__':
  absltest.main()
