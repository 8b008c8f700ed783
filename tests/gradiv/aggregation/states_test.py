"""States of the aggregations survive what optax users do with states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from gradiv import aggregation, weightings

BY_LAYER = gradiv.Layout(groups=gradiv.by_layer)
PARAMS = {'a': {'w': jnp.ones((4, 3)), 'b': jnp.ones(3)},
          'c': {'w': jnp.ones((8, 2))}}


def weighed(rule, **options):
  return lambda key: gradiv.aggregate_by_weights(rule, 'workers', **options)


# Name, key -> transformation, number of leaves that are like a parameter.
ALL = (
  ('mean', lambda key: gradiv.aggregate_by_mean('workers'), 0),
  ('agreement', lambda key: gradiv.aggregate_by_agreement(.9, 'workers'), 0),
  ('agreement_shuffled', lambda key: gradiv.aggregate_by_agreement(
    .9, 'workers', key=key, num_workers=4, window=3), 0),
  ('agreement_by_layer', lambda key: gradiv.aggregate_by_agreement(
    .9, 'workers', key=key, layout=BY_LAYER), 0),
  ('adacons_by_layer', weighed(
    weightings.adacons(), num_workers=4, layout=BY_LAYER), 0),
  ('centered_clipping', weighed(weightings.centered_clipping(1.)), 3),
  ('clipping_by_layer', weighed(
    weightings.centered_clipping(1.), layout=BY_LAYER), 3),
  ('pcgrad', lambda key: gradiv.aggregate_by_weights(
    weightings.pcgrad(), 'workers', key=key), 0),
  ('median', lambda key: gradiv.aggregate_by_median('workers'), 0),
  ('bulyan', lambda key: aggregation.aggregate_by_bulyan(0, 'workers'), 0),
  ('sign_agreement', lambda key: gradiv.aggregate_by_sign_agreement(
    .4, 'workers'), 0),
  ('sign_dropout', lambda key: aggregation.aggregate_by_sign_dropout(
    'workers', key=key), 0),
  ('accumulate', lambda key: gradiv.accumulate_by_agreement(.9, 3), 3),
  ('accumulate_first', lambda key: gradiv.accumulate_by_agreement(
    .9, 3, combine='first'), 6),
  ('skip', lambda key: gradiv.skip_zero_updates(optax.adam(.1)), 6),
)
ROWS = [row[:2] for row in ALL]


class StatesTest(parameterized.TestCase):

  def step_of(self, tx, **options):
    """One step of four workers with some gradient, or of one device."""
    def step(like, state):
      grads = jax.tree.map(
        lambda x: jnp.stack([x, 2 * x, 3 * x, -x]), like)
      return jax.vmap(lambda g: tx.update(g, state), axis_name='workers',
                      axis_size=4, out_axes=None)(grads)

    alone = lambda like, state: tx.update(like, state)
    one_device = 'accumulate' in self.id() or 'skip' in self.id()
    return jax.jit(alone if one_device else step, **options)

  @parameterized.named_parameters(*ROWS)
  @pytest.mark.slow
  def test_states_are_donated_and_the_key_is_not(self, make):
    key = jax.random.key(0)
    tx = make(key)
    step, state = self.step_of(tx, donate_argnums=1), tx.init(PARAMS)
    for _ in range(3):
      _, state = step(PARAMS, state)
    jax.random.bits(key)
    tx.init(PARAMS)

  @parameterized.named_parameters(*ALL)
  def test_map_params_finds_what_is_like_a_parameter(self, make, expected):
    tx = make(jax.random.key(0))
    state = tx.init(PARAMS)
    specs = jax.tree.map(lambda p: P(*p.shape), PARAMS)
    tagged = optax.tree.map_params(
      tx, lambda x, spec: spec, state, specs,
      transform_non_params=lambda x: None)
    found = jax.tree.leaves(tagged, is_leaf=lambda x: isinstance(x, P))
    self.assertLen(found, expected)

  @parameterized.named_parameters(*ROWS)
  @pytest.mark.slow
  def test_trees_without_leaves(self, make):
    tx = make(jax.random.key(0))
    for params in ({}, None, {'a': None, 'b': ()}):
      state = tx.init(params)
      updates, new = self.step_of(tx)(params, state)
      self.assertEqual(updates, params)
      spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
      self.assertEqual(spec(new), spec(state))

  @parameterized.named_parameters(*ROWS)
  def test_no_array_is_empty(self, make):
    for leaf in jax.tree.leaves(make(jax.random.key(0)).init(PARAMS)):
      self.assertGreater(leaf.size, 0)  # else orbax cannot save it

  @parameterized.named_parameters(*ROWS)
  def test_init_of_shapes(self, make):
    tx = make(jax.random.key(0))
    shapes = jax.eval_shape(lambda: PARAMS)
    spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    self.assertEqual(spec(tx.init(shapes)), spec(tx.init(PARAMS)))

  @parameterized.parameters(AxisType.Auto, AxisType.Explicit)
  def test_buffers_are_sharded_as_the_parameters(self, axis_type):
    mesh = jax.make_mesh((8,), ('x',), axis_types=(axis_type,))
    params = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, P('x')))
    for tx in (
        gradiv.accumulate_by_agreement(.9, 3, combine='first'),
        gradiv.aggregate_by_weights(
          weightings.centered_clipping(1.), 'workers')):
      state = tx.init(params)
      buffers = [x for x in jax.tree.leaves(state) if x.shape == (8, 2)]
      self.assertNotEmpty(buffers)
      for buffer in buffers:
        self.assertEqual(buffer.sharding, params.sharding)


class InjectTest(parameterized.TestCase):
  """Numbers can be injected and scheduled; static arguments are named."""

  @parameterized.named_parameters(
    ('agreement', gradiv.aggregate_by_agreement,
     (lambda step: 2. - step, 'workers'),
     ('num_anchors', 'min_agreed', 'window')),
    ('sign_agreement', gradiv.aggregate_by_sign_agreement,
     (lambda step: .4 + .1 * step, 'workers'), ()),
    ('smooth_sign_agreement', aggregation.aggregate_by_smooth_sign_agreement,
     (.4, 'workers'), ()),
    ('trimmed_mean', gradiv.aggregate_by_trimmed_mean, (1, 'workers'),
     ('num_trimmed',)),
    ('bulyan', aggregation.aggregate_by_bulyan, (0, 'workers'),
     ('num_byzantine',)),
    ('mean', gradiv.aggregate_by_mean, ('workers',), ()),
    ('median', gradiv.aggregate_by_median, ('workers',), ()),
    ('sign_majority', aggregation.aggregate_by_sign_majority, ('workers',), ()),
    ('accumulate', gradiv.accumulate_by_agreement,
     (lambda step: 1., 3), ('num_micro_steps', 'min_agreed')))
  @pytest.mark.slow
  def test_equals_the_transformation_itself(self, make, args, static):
    injected = optax.inject_hyperparams(make, static_args=static)(*args)
    value = lambda arg: arg(0) if callable(arg) else arg
    plain = make(*map(value, args))
    params = jnp.ones(6)
    grads = jnp.float32(np.random.default_rng(0).normal(size=(4, 6)))
    first = lambda tx: jax.jit(jax.vmap(
      lambda g: tx.update(g, tx.init(params), params)[0],
      axis_name='workers'))(grads)
    np.testing.assert_allclose(first(injected), first(plain), 1e-6)

  def test_a_number_that_decides_shapes_is_named(self):
    with self.assertRaisesRegex(ValueError, 'num_trimmed'):
      optax.inject_hyperparams(gradiv.aggregate_by_trimmed_mean)(
        1, 'workers').init(PARAMS)


if __name__ == '__main__':
  absltest.main()
