"""Delayed updates, against the record of all updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import staleness
from tests import helpers

N, T = 8, 12
KEY = jax.random.key(3)
RNG = np.random.default_rng(5)
TRACE = RNG.integers(0, 4, (5, N))
MODELS = (
  ('constant', 3), ('fresh', 0), ('by_worker', list(range(N))),
  ('recorded', staleness.Recorded(TRACE[:, 0])),
  ('recorded_by_worker', staleness.Recorded(TRACE)),
  ('drawn', staleness.Drawn([0.2, 0.5, 0.0, 0.3])),
)
LAYOUTS = (('vmap', 'workers'), ('shard_map', ('devices', 'virtual')))


def gradients():
  draw = lambda *shape: jnp.float32(RNG.normal(size=(N, T, *shape)))
  return {'kernel': draw(3, 2), 'none': None, 'scale': draw(),
          'half': draw(4).astype(jnp.bfloat16)}


def make(model, axis='workers'):
  key = KEY if isinstance(model, staleness.Drawn) else None
  return staleness.delay_updates(model, axis_name=axis, key=key)


def run(tx, grads, axis='workers', backend='vmap'):
  """All updates and what the states showed, [n, T, ...]."""
  def worker(grads):
    def step(state, g):
      update, state = tx.update(g, state, None, unknown=1)
      return state, (update, state.staleness)

    start = tx.init(jax.tree.map(lambda g: g[0], grads))
    return jax.lax.scan(step, start, grads)[1]

  devices = jax.devices()[:4] if isinstance(axis, tuple) else None
  return gradiv.map_workers(worker, axis, backend=backend, devices=devices)(
    grads)


def twin(grads, taus):
  """u_t = g_{t−τ}, 0 while t < τ, of one leaf [n, T, ...]; taus [n, T]."""
  grads = np.asarray(grads)
  expected = np.zeros_like(grads)
  for i in range(grads.shape[0]):
    for t in range(grads.shape[1]):
      if t >= taus[i, t]:
        expected[i, t] = grads[i, t - taus[i, t]]
  return expected


class DelayTest(parameterized.TestCase):

  @parameterized.named_parameters(*((name, name, m) for name, m in MODELS))
  def test_hands_on_what_was_then(self, name, model):
    # What is drawn, and what differs by worker, could depend on the layout.
    more = {
      'drawn': (LAYOUTS[1], ('shard_map', 'workers'), ('pmap', 'workers')),
      'recorded_by_worker': LAYOUTS[1:]}
    self.check(model, (LAYOUTS[0], *more.get(name, ())))

  @parameterized.named_parameters(*((name, m) for name, m in MODELS))
  @pytest.mark.slow
  def test_so_it_does_in_every_layout(self, model):
    self.check(model, LAYOUTS)

  def check(self, model, layouts):
    grads, seen = gradients(), {}
    for backend, axis in layouts:
      updates, taus = run(make(model, axis), grads, axis, backend)
      helpers.assert_same(
        updates, jax.tree.map(lambda g: twin(g, np.asarray(taus)), grads))
      seen[backend, axis] = np.asarray(taus)
    # That drawn ones are from their distribution, another test asks.
    turn = np.arange(T) % len(TRACE)
    expected = {
      int: lambda: np.full((N, T), model),
      list: lambda: np.repeat(np.arange(N)[:, None], T, 1),
      staleness.Recorded: lambda: (
        TRACE[turn].T if model.trace.ndim == 2 else
        np.broadcast_to(TRACE[turn, 0], (N, T))),
      staleness.Drawn: lambda: seen['vmap', 'workers'],
    }[type(model)]()
    for taus in seen.values():
      np.testing.assert_array_equal(taus, expected)

  def test_by_leaf(self):
    steps = {'kernel': 2, 'scale': 0, 'half': 5}
    tx = staleness.delay_updates(lambda path: steps[path[0].key])
    grads = gradients()
    updates, taus = run(tx, grads)
    taus = dict(zip(['half', 'kernel', 'scale'], taus, strict=True))
    for name, tau in steps.items():
      np.testing.assert_array_equal(taus[name], np.full((N, T), tau))
      np.testing.assert_array_equal(
        updates[name], twin(grads[name], np.full((N, T), tau)))
    # Each leaf has only the rows that it needs, in the order of the leaves.
    like = jax.tree.map(lambda g: g[0, 0], grads)
    shapes = [() if isinstance(rows, tuple) else rows.shape
              for rows in tx.init(like).buffer]
    self.assertEqual(shapes, [(6, 4), (3, 3, 2), ()])

  def test_the_buffer_is_not_taken_for_parameters(self):
    # Its rows have one axis more than a parameter and its PartitionSpec.
    tx = staleness.delay_updates(2)
    state = tx.init({'x': jnp.zeros(3)})
    mapped = optax.tree.map_params(tx, lambda x: 'parameter', state)
    self.assertNotIn('parameter', jax.tree.leaves(mapped))

  def test_the_buffer_lies_as_the_parameters_do(self):
    mesh = jax.make_mesh((8,), ('model',), axis_types=(
      jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec('model')
    x = jax.device_put(jnp.zeros((8, 2)), jax.NamedSharding(mesh, spec))
    rows, = staleness.delay_updates(2).init([x]).buffer
    self.assertEqual(rows.addressable_shards[0].data.shape, (3, 1, 2))

  def test_a_tree_without_leaves_is_kept(self):
    for tree in ({}, {'x': None}):
      tx = staleness.delay_updates(2)
      state = tx.init(tree)
      updates, new = tx.update(tree, state)
      self.assertEqual(updates, tree)
      self.assertEqual(jax.tree.structure(new), jax.tree.structure(state))

  def test_a_staleness_of_zero_changes_and_keeps_nothing(self):
    tx, g = staleness.delay_updates(0), {'x': jnp.array([-0., jnp.nan, 1e-42])}
    state = tx.init(g)
    self.assertEmpty(jax.tree.leaves(state.buffer))
    helpers.assert_same(jax.jit(tx.update)(g, state)[0], g)

  @parameterized.parameters(5, staleness.Recorded(TRACE[:, 0] + 2))
  def test_rows_are_not_copied(self, model):
    # The time of a step is that of a row, not of all.
    tx = optax.chain(make(model), optax.sgd(0.1))

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(2 * x, state)
      return (optax.apply_updates(x, updates), state), None

    def train(x, state):
      return jax.lax.scan(step, (x, state), None, length=9)[0]

    x = jnp.ones((7, 11))
    text = jax.jit(train, donate_argnums=(0, 1)).lower(
      x, tx.init(x)).compile().as_text()
    self.assertIn('f32[6,7,11]', text)
    copies = [line for line in text.splitlines()
              if ' copy(' in line and 'f32[6,7,11]' in line]
    self.assertEmpty(copies)

  def test_what_is_not_finite_stays_in_its_turn(self):
    tx = staleness.delay_updates(2)
    state, seen = tx.init(jnp.zeros(())), []
    for g in (1., jnp.nan, 3., 4., 5., 6.):
      update, state = tx.update(jnp.float32(g), state)
      seen.append(float(update))
    np.testing.assert_array_equal(seen, [0, 0, 1, np.nan, 3, 4])

  @parameterized.named_parameters(*MODELS)
  def test_state_is_fixed_and_dtypes_stay(self, model):
    tx = make(model)
    like = jax.tree.map(lambda g: g[0, 0], gradients())
    spec = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    start = tx.init(like)
    state = jax.eval_shape(
      gradiv.map_workers(lambda g: tx.update(g, start)[1], 'workers'),
      gradiv.replicate(like, N))
    self.assertEqual(spec(state), spec(
      jax.eval_shape(lambda: gradiv.replicate(start, N))))
    # Of parameters in half precision and gradients in full.
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), like)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), like)
    updates = jax.eval_shape(
      gradiv.map_workers(lambda g: tx.update(g, tx.init(half))[0], 'workers'),
      gradiv.replicate(wide, N))
    self.assertEqual({x.dtype for x in jax.tree.leaves(updates)},
                     {jnp.dtype('float32')})

  def test_under_check_vma(self):
    model = staleness.Recorded(TRACE)
    tx, g = make(model), gradients()['kernel']
    state = gradiv.replicate(tx.init(g[0, 0]), N)

    def worker(g, state):
      pick = lambda tree: jax.tree.map(lambda x: x[0], tree)
      updates = jax.lax.scan(lambda s, g: tx.update(g, s)[::-1],
                             pick(state), g[0])[1]
      return updates[None]

    mesh = Mesh(np.array(jax.devices()[:N]), ('workers',))
    fn = jax.jit(jax.shard_map(worker, mesh=mesh, in_specs=P('workers'),
                               out_specs=P('workers'), check_vma=True))
    np.testing.assert_array_equal(
      fn(g, state), twin(g, TRACE[np.arange(T) % len(TRACE)].T))


class DrawnTest(parameterized.TestCase):

  def draw(self, axis, workers=64, steps=100):
    chances = [0.1, 0.6, 0.0, 0.3]
    tx = staleness.delay_updates(
      staleness.Drawn(chances), axis_name=axis, key=KEY)
    taus = run(tx, jnp.zeros((workers, steps)))[1]
    return np.asarray(taus), chances

  def test_frequencies(self):
    taus, chances = self.draw('workers')
    for tau, chance in enumerate(chances):
      helpers.assert_mean((taus == tau).ravel(), chance)
    self.assertEqual(taus.max(), 3)
    # Workers and steps apart: no two rows, and no two columns, are alike.
    self.assertLen(np.unique(taus, axis=0), 64)
    self.assertLen(np.unique(taus, axis=1)[0], 100)

  def test_common_without_an_axis(self):
    taus, _ = self.draw(None)
    np.testing.assert_array_equal(taus, np.broadcast_to(taus[:1], taus.shape))
    self.assertGreater(taus.std(), 0)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(staleness=-1), 'staleness=-1'),
    (dict(staleness=1.5), 'staleness=1.5'),
    (dict(staleness=True), 'staleness=True'),
    (dict(staleness=[1, -2], axis_name='workers'), 'staleness=-2'),
    (dict(staleness=[], axis_name='workers'), r'staleness=\[\]'),
    (dict(staleness=[1, 2]), 'axis_name=None'),
    (dict(staleness=staleness.Recorded(TRACE)), 'axis_name=None'),
    (dict(staleness=1, axis_name=''), "axis_name=''"),
    (dict(staleness=1, key=KEY), 'key='),
    (dict(staleness=staleness.Drawn([1.])), 'key=None'))
  def test_an_error_names_the_argument_and_its_value(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      staleness.delay_updates(**options)

  @parameterized.parameters(
    (staleness.Drawn, 'probabilities', []),
    (staleness.Drawn, 'probabilities', [0.5, 0.6]),
    (staleness.Drawn, 'probabilities', [1.5, -0.5]),
    (staleness.Drawn, 'probabilities', [[1.]]),
    (staleness.Recorded, 'trace', []), (staleness.Recorded, 'trace', [0.5]),
    (staleness.Recorded, 'trace', [-1, 2]),
    (staleness.Recorded, 'trace', [[[1]]]))
  def test_models_refuse_what_is_no_distribution_or_trace(
      self, model, name, value):
    with self.assertRaisesRegex(ValueError, name):
      model(value)

  def test_profiles_refuse_bad_arguments(self):
    with self.assertRaisesRegex(ValueError, 'num_stages=0'):
      staleness.pipeline_staleness(lambda path: 0, 0)
    with self.assertRaisesRegex(ValueError, "schedule='gpipe'"):
      staleness.pipeline_staleness(lambda path: 0, 1, schedule='gpipe')

  def test_the_staleness_must_fit_leaves_and_workers(self):
    with self.assertRaisesRegex(ValueError, r"staleness\['x'\]=-1"):
      staleness.delay_updates(lambda path: -1).init({'x': jnp.zeros(2)})
    with self.assertRaisesRegex(ValueError, 'staleness of 3 workers'):
      run(staleness.delay_updates([1, 2, 3], axis_name='workers'),
          gradients())


if __name__ == '__main__':
  absltest.main()
