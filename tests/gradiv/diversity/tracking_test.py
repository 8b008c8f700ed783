"""The metrics in the state of the optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import workers as workers_lib
from tests import helpers

PARAMS = {'dense': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.zeros(3)},
          'head': jnp.zeros(5)}
RNG = np.random.default_rng(3)


def gradients(steps, workers, dtype=np.float32):
  draw = lambda x: RNG.normal(0.5, 1, (workers, steps, *x.shape)).astype(dtype)
  return jax.tree.map(draw, PARAMS)


def run(tx, grads, axis='workers', backend='vmap', state=None, params=PARAMS):
  """Scan the updates of all steps inside the workers' program."""
  def fn(grads, state):
    def step(state, g):
      updates, state = tx.update(g, state)
      return state, updates
    return jax.lax.scan(step, state, grads)

  mapped = gradiv.map_workers(fn, axis, in_axes=(0, None), out_axes=(None, 0),
                              backend=backend)
  return mapped(grads, tx.init(params) if state is None else state)


class TrackMomentsTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  @pytest.mark.slow
  def test_averages_what_each_step_estimates(self, backend, axis, workers):
    grads = gradients(12, workers)
    tx = gradiv.track_moments(axis, batch_size=4, decay=0.8)
    state, updates = run(tx, grads, axis, backend)
    helpers.assert_same(updates, grads)
    flat = np.concatenate([g.reshape(workers, 12, -1)
                           for g in jax.tree.leaves(grads)], -1)
    mean = flat.mean(0, dtype=np.float64)
    spread = np.sum((flat - mean)**2, (0, 2)) * 4 / (workers - 1)
    signal = np.sum(mean**2, 1) - spread / (4 * workers)
    weights = 0.8 ** np.arange(12)[::-1]
    average = gradiv.read_moments(state).average
    np.testing.assert_allclose(
      average.sq_norm, weights @ signal / weights.sum(), 1e-4)
    np.testing.assert_allclose(
      average.variance, weights @ spread / weights.sum(), 1e-4)
    self.assertEqual(int(state.averages.count), 12)

  @pytest.mark.slow
  def test_each_group_and_the_whole_as_if_tracked_alone(self):
    grads = gradients(12, 8)
    track = lambda **kw: gradiv.track_moments(
      'workers', batch_size=4, decay=.9, **kw)
    read = lambda tx, grads, params=PARAMS: gradiv.read_moments(
      run(tx, grads, params=params)[0])
    reading = read(track(groups=gradiv.by_layer), grads)
    self.assertEqual(reading.names, ('dense', 'head'))
    rows = jax.tree.map(lambda *xs: np.stack(xs), *(
      read(track(), grads[name], PARAMS[name]) for name in reading.names))
    helpers.assert_close(
      reading._replace(whole=None, encoded_names=()), rows, 1e-4, 1e-6)
    helpers.assert_close(reading.whole, read(track(), grads), 1e-4, 1e-6)

  def test_groups_cost_a_handful_of_leaves_and_little_program(self):
    """However many layers: one array a statistic, one program for all."""
    size = {}
    for layers in (2, 30):
      params = {f'{i}': {'w': jnp.zeros((8, 8)), 'b': jnp.zeros(8)}
                for i in range(layers)}
      mean = gradiv.aggregate_by_mean('workers')
      track = gradiv.track_moments(
        'workers', batch_size=4, groups=gradiv.by_layer)
      state = track.init(params)
      self.assertLess(len(jax.tree.leaves(state)), 12)
      grads = jax.tree.map(lambda x: jnp.zeros((4, *x.shape)), params)

      def lines(tx):
        step = jax.vmap(lambda g, s: tx.update(g, s), (0, None), None,
                        axis_name='workers')
        text = jax.jit(step).lower(grads, tx.init(params)).as_text()
        return len(text.splitlines())

      size[layers] = np.array([lines(mean), lines(optax.chain(track, mean))])
    # By layer: the operations of the mean once more, which the compiler
    # shares, and hardly any else. A program for each would be ten times that.
    of_mean, of_both = size[30] - size[2]
    self.assertLess(of_both, 2.2 * of_mean)

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_a_step_that_is_not_finite_is_skipped_and_counted(
      self, backend, axis, workers):
    grads = gradients(6, workers)
    bad = jax.tree.map(np.copy, grads)
    bad['head'][1, 2, 0] = np.nan   # one worker, one step
    bad['dense']['bias'][0, 4, 1] = np.inf
    keep = jax.tree.map(lambda g: np.delete(g, [2, 4], 1), grads)
    tx = gradiv.track_moments(axis, batch_size=4, decay=0.8)
    state, _ = run(tx, bad, axis, backend)
    reference, _ = run(tx, keep, axis, backend)
    self.assertEqual(int(state.num_skipped), 2)
    helpers.assert_close(
      state._replace(num_skipped=0), reference._replace(num_skipped=0), 1e-5,
      1e-6)

  def test_overflow_of_a_statistic_alone_is_skipped(self):
    grads = jax.tree.map(lambda g: np.float32(1e30) * g, gradients(3, 8))
    state, updates = run(gradiv.track_moments('workers', batch_size=4), grads)
    self.assertEqual(int(state.num_skipped), 3)
    helpers.assert_same(updates, grads)

  def test_one_worker_is_unavailable(self):
    tx = gradiv.track_moments('workers', batch_size=4)
    state, _ = run(tx, gradients(5, 1))
    self.assertTrue(np.isnan(gradiv.read_moments(state).estimate.sq_norm))
    reading = gradiv.read_moments(state)
    self.assertTrue(np.isnan(gradiv.batch_size_bound(reading.estimate)))
    self.assertEqual(int(state.num_skipped), 0)
    self.assertFalse(bool(reading.interval.is_trusted))

  def test_sum_reduced_loss_and_finite_set(self):
    grads = gradients(3, 8)
    average = lambda grads, **kw: gradiv.read_moments(run(
      gradiv.track_moments('workers', batch_size=4, **kw), grads)[0]).average
    summed = jax.tree.map(lambda g: 4 * g, grads)
    helpers.assert_close(average(summed, reduction='sum'), average(grads))
    finite = average(grads, num_examples=32)
    np.testing.assert_allclose(
      finite.variance, average(grads).variance * 31 / 32, 1e-6)

  @parameterized.parameters(
    (dict(batch_size=0), 'batch_size'),
    (dict(batch_size=4, decay=1.0), 'decay'),
    (dict(batch_size=4, level=95), 'level'),
    (dict(batch_size=4, reduction='none'), 'reduction'),
    (dict(batch_size=4, num_examples=0), 'num_examples'),
    (dict(batch_size=4, axis_name=''), 'axis_name'),
    (dict(axis_name=None, layout=gradiv.Layout()), 'axis_name'),
    (dict(layout=gradiv.Layout(mean_over='workers')), 'workers'),
  )
  def test_unusable_arguments_fail_at_construction(self, kwargs, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.track_moments(**{'axis_name': 'workers', **kwargs})


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

  def test_a_run_resumed_is_the_same_bit_by_bit(self):
    grads = gradients(40, 4)
    tx = gradiv.track_moments(
      'workers', batch_size=2, groups=gradiv.by_layer)
    whole, _ = run(tx, grads)
    half, _ = run(tx, jax.tree.map(lambda g: g[:, :17], grads))
    kept = jax.tree.map(np.asarray, half)
    resumed, _ = run(tx, jax.tree.map(lambda g: g[:, 17:], grads),
                     state=jax.tree.map(jnp.asarray, kept))
    helpers.assert_same(resumed, whole)

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


class LoopTest(parameterized.TestCase):
  """In the loops that people write."""

  @parameterized.parameters(None, gradiv.by_layer)
  @pytest.mark.slow
  def test_donated_and_injected(self, groups):
    """Numbers may be injected; no two leaves share a buffer."""
    tx = optax.inject_hyperparams(
      gradiv.track_moments, static_args=('groups',))(
        'workers', batch_size=optax.linear_schedule(2, 8, 3),
        decay=.95, level=.95, num_examples=1000, groups=groups)
    step = jax.jit(jax.vmap(
      lambda g, s: tx.update(g, s)[1], (0, None), None, axis_name='workers'),
      donate_argnums=1)
    state = tx.init(PARAMS)
    for _ in range(4):
      state = step(jax.tree.map(lambda x: x[:, 0], gradients(1, 8)), state)
    reading = gradiv.read_moments(state)
    self.assertTrue(np.all(np.isfinite(reading.average.variance)))
    self.assertEqual(float(state.inner_state.level), np.float32(.95))

  def test_injected_numbers_act_as_given_ones(self):
    grads = gradients(6, 8)
    plain = gradiv.track_moments(
      'workers', batch_size=4, decay=.9, level=.8, num_examples=99)
    injected = optax.inject_hyperparams(gradiv.track_moments)(
      'workers', batch_size=4, decay=.9, level=.8, num_examples=99)
    expected, found = (gradiv.read_moments(run(tx, grads)[0])
                       for tx in (plain, injected))
    helpers.assert_close(found, expected, 2e-5, 1e-6)

  def test_maps_over_parameters_and_over_shapes(self):
    for groups in (None, gradiv.by_layer):
      tx = gradiv.track_moments('workers', batch_size=4, groups=groups)
      state = tx.init(PARAMS)
      helpers.assert_same(
        optax.tree.map_params(tx, lambda x: x, state), state)
      shapes = jax.eval_shape(tx.init, PARAMS)
      templates = tx.init(jax.eval_shape(lambda: PARAMS))
      for tree in (shapes, templates):
        self.assertEqual(jax.tree.map(jnp.shape, tree),
                         jax.tree.map(jnp.shape, state))


class WholeStepTest(parameterized.TestCase):
  """A chain that reads in the order in which the data flows."""

  def train(self, axis, backend, devices=None, workers=64, steps=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(workers, steps, 4, 6)).astype(np.float32)
    params = {'w': jnp.linspace(-1, 1, 6), 'b': jnp.float32(0)}
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p['w'] + p['b'])**2)
    tx = optax.chain(gradiv.track_moments(axis, batch_size=4, decay=0.9),
                     gradiv.aggregate_by_mean(axis),
                     optax.sgd(0.1, momentum=0.9))

    def fn(x, carry):
      def step(carry, x):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None
      return jax.lax.scan(step, carry, x)[0]

    return helpers.on_workers(
      fn, x, (params, tx.init(params)), axis, backend, devices=devices)

  @pytest.mark.slow
  def test_64_workers_on_1_2_and_8_devices(self):
    reference = self.train('workers', 'vmap')
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count])
        helpers.assert_close(result, reference, 2e-4, 1e-5)

  @pytest.mark.slow
  def test_one_step_from_the_same_state(self):
    """To float32 rounding, with nothing grown over steps."""
    reference = self.train('workers', 'vmap', steps=1)
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        result = self.train(
          ('devices', 'virtual'), backend, jax.devices()[:count], steps=1)
        helpers.assert_close(result, reference, 2e-6, 1e-7)

  @parameterized.parameters(True, False)
  @pytest.mark.slow
  def test_inside_the_users_shard_map(self, check_vma):
    """The state and the update come out typed common: out_specs=P()."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4, 6)).astype(np.float32)
    params = {'w': jnp.linspace(-1, 1, 6)}
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p['w'])**2)
    tx = optax.chain(
      gradiv.track_moments('workers', batch_size=4, groups=gradiv.by_layer),
      gradiv.aggregate_by_mean('workers'), optax.adam(0.1))

    def step(private, x, params, state):
      own = gradiv.as_private(params, 'workers') if private else params
      return tx.update(jax.grad(loss)(own, x), state, params)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))

    def mapped(private):
      return jax.jit(jax.shard_map(
        lambda x, p, s: step(private, x[0], p, s), mesh=mesh,
        in_specs=(P('workers'), P(), P()), out_specs=P(),
        check_vma=check_vma))(x, params, tx.init(params))

    reference = jax.vmap(
      lambda x: step(False, x, params, tx.init(params)), axis_name='workers',
      out_axes=None)(x)
    helpers.assert_close(mapped(True), reference, 1e-5, 1e-6)
    if check_vma:  # undone, the trap is an error and not a number
      with self.assertRaisesRegex(ValueError, 'already reduced'):
        mapped(False)

  @parameterized.parameters(*workers_lib.BACKENDS)
  def test_workers_equal_one_big_batch(self, backend):
    """Mean and sgd over n workers is sgd on the joined batch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 20, 4, 6)).astype(np.float32)
    w = jnp.linspace(-1, 1, 6)
    loss = lambda w, x: jnp.mean((x @ w)**2)
    tx = optax.chain(gradiv.aggregate_by_mean('workers'), optax.sgd(0.05))

    def descend(grads_of, tx, x):
      def step(carry, x):
        w, s = carry
        updates, s = tx.update(jax.grad(grads_of)(w, x), s)
        return (w + updates, s), None
      return jax.lax.scan(step, (w, tx.init(w)), x)[0][0]

    result = helpers.on_workers(
      lambda x, _: descend(loss, tx, x), x, backend=backend)
    joined = x.transpose(1, 0, 2, 3).reshape(20, 32, 6)
    np.testing.assert_allclose(
      result, descend(loss, optax.sgd(0.05), joined), 1e-5)


if __name__ == '__main__':
  absltest.main()
