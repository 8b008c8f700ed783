"""What is tracked may come from workers, shards, or be handed in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from tests import helpers
from tests.gradiv.diversity.tracked import PARAMS, RNG, gradients


class SourcesTest(parameterized.TestCase):
  """Where the statistics of a step come from."""

  def average_of(self, tx, rows, params=PARAMS, **extra):
    """Track some steps; each value of `extra` has one row a step."""
    step = gradiv.map_workers(
      lambda g, s, own: tx.update(g, s, **own)[1],
      'workers', in_axes=(0, None, 0), out_axes=None)
    state = tx.init(params)
    for i, g in enumerate(rows):
      state = step(g, state, {k: x[i] for k, x in extra.items()})
    return gradiv.read_moments(state).average

  @parameterized.parameters(True, False)
  def test_batch_size_of_the_step(self, differs):
    """By step, and by worker, as `worker_moments` has it."""
    sizes = RNG.integers(1, 9, (3, 8)).astype('f')
    if not differs:
      sizes = np.repeat(sizes[:, :1], 8, 1)
    rows = [jax.tree.map(lambda x: x[:, 0], gradients(1, 8))
            for _ in range(3)]
    average = self.average_of(
      gradiv.track_moments('workers', batch_size=100, decay=.5), rows,
      batch_size=sizes)
    each = [gradiv.estimate(helpers.on_workers(
      lambda p, _: gradiv.worker_moments(p[0], 'workers', batch_size=p[1]),
      (g, b))) for g, b in zip(rows, sizes)]
    expected = jax.tree.map(
      lambda a, b, c: (a / 4 + b / 2 + c) / 1.75, *each)
    helpers.assert_close(average, expected, 1e-5)

  @pytest.mark.slow
  def test_moments_that_are_handed_in_are_those_tracked(self):
    """Of examples, with no axis at all; by group, too."""
    loss = lambda p, x: jnp.mean(
      (x @ p['dense']['kernel'] + p['dense']['bias'])**2)
    params = {'dense': {'kernel': jnp.ones((4, 3)), 'bias': jnp.zeros(3)}}
    tx = gradiv.track_moments(decay=.9)
    by_layer = gradiv.track_moments(decay=.9, groups=gradiv.by_layer)
    state, grouped = tx.init(params), by_layer.init(params)
    seen = []
    for _ in range(3):
      x = RNG.normal(size=(16, 4)).astype('f')
      _, grads, m = gradiv.example_moments(loss)(params, x)
      passed, state = jax.jit(tx.update)(grads, state, moments=m)
      helpers.assert_same(passed, grads)
      _, grouped = by_layer.update(
        grads, grouped, moments=jax.tree.map(lambda x: x[None], m))
      seen.append(gradiv.estimate(m))
    weights = .9 ** np.arange(3)[::-1]
    for name, x in gradiv.read_moments(state).average._asdict().items():
      each = np.array([getattr(e, name) for e in seen])
      np.testing.assert_allclose(x, each @ weights / weights.sum(), 1e-5)
    helpers.assert_close(gradiv.read_moments(grouped).whole,
                         gradiv.read_moments(state), 1e-5)

  def test_all_three_sources_fill_the_windows_alike(self):
    """Workers, the same as micro-steps, and moments that are handed in."""
    rows = RNG.normal(.5, 1, (20, 4, 3)).astype('f')
    of_workers = gradiv.track_moments('workers', batch_size=2)
    of_moments = gradiv.track_moments()
    steps = gradiv.accumulate_moments(4, of_moments, batch_size=2)

    def workers(g, state):
      return of_workers.update(g, state)[1], gradiv.worker_moments(
        g, 'workers', batch_size=2)

    def step(states, g):
      one, other, third = states
      one, moments = jax.vmap(
        workers, (0, None), None, axis_name='workers')(g, one)
      other = of_moments.update((), other, moments=moments)[1]
      for x in g:
        _, third = steps.update(x, third)
      return (one, other, third), None

    states, _ = jax.lax.scan(step, (
      of_workers.init(rows[0, 0]), of_moments.init(()),
      steps.init(rows[0, 0])), rows)
    one, other, third = map(gradiv.read_moments, states)
    self.assertGreater(float(one.batch_size_at_least), 1)
    helpers.assert_close(other, one, 1e-5)
    helpers.assert_close(third, one, 1e-3)

  def test_not_finite_moments_are_skipped(self):
    tx = gradiv.track_moments()
    nan = gradiv.Moments(*jnp.float32([4, 1, np.nan, 1]))
    _, state = tx.update((), tx.init(()), moments=nan)
    self.assertEqual(int(state.num_skipped), 1)
    self.assertEqual(int(state.averages.count), 0)

  def test_what_is_missing_is_named(self):
    tx = gradiv.track_moments()
    with self.assertRaisesRegex(ValueError, 'moments'):
      tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    tx = gradiv.track_moments('workers')
    with self.assertRaisesRegex(ValueError, 'batch_size'):
      jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name='workers')(
        jnp.ones((3, 2)))
    tx = gradiv.track_moments(groups=gradiv.by_layer)
    with self.assertRaisesRegex(ValueError, 'moments'):
      tx.update(PARAMS, tx.init(PARAMS),
                moments=gradiv.Moments(*jnp.ones((4, 3))))

  @parameterized.parameters(False, True)
  @pytest.mark.slow
  def test_shards_of_workers(self, check_vma):
    """Tensor parallelism: 4 workers x 2 shards, the state common to all."""
    grads = {'a': RNG.normal(.5, 1, (3, 4, 6)).astype('f'),
             'b': RNG.normal(.5, 1, (3, 4, 2)).astype('f')}
    grads['a'][1, 2, 5] = np.nan  # in one shard of one worker
    layout = gradiv.Layout(sharded_over='model',
                           is_sharded=lambda path: path[0].key == 'a')
    track = functools.partial(
      gradiv.track_moments, 'data', batch_size=4, groups=gradiv.by_layer)
    tx, plain = track(layout=layout), track()
    mesh = jax.sharding.Mesh(
      np.array(jax.devices()).reshape(4, 2), ('data', 'model'))

    def follow(tx):
      def fn(grads):
        step = lambda s, g: (tx.update(g, s)[1], None)
        first = jax.tree.map(lambda x: x[0], grads)
        return jax.lax.scan(step, tx.init(first), grads)[0]
      return fn

    specs = {'a': P(None, 'data', 'model'), 'b': P(None, 'data')}
    fn = lambda g: follow(tx)(jax.tree.map(lambda x: x[:, 0], g))
    state = jax.jit(jax.shard_map(
      fn, mesh=mesh, in_specs=(specs,), out_specs=P(),
      check_vma=check_vma))(grads)
    self.assertEqual(int(state.num_skipped), 1)
    whole = jax.vmap(follow(plain), 1, None, axis_name='data')(grads)
    helpers.assert_close(state, whole, 1e-5, 1e-6)

  @pytest.mark.slow
  def test_no_leaves(self):
    """As in `optax.partition`, where a label has no parameters."""
    for groups in (None, gradiv.by_layer):
      tx = gradiv.track_moments('workers', batch_size=4, groups=groups)
      _, state = jax.vmap(
        lambda x: tx.update({}, tx.init({})), axis_name='workers',
        out_axes=None)(jnp.zeros(4))
      reading = gradiv.read_moments(state)
      self.assertEqual(reading.names, ())
      self.assertTrue(np.all(np.isnan(reading.average.sq_norm)))


if __name__ == '__main__':
  absltest.main()
