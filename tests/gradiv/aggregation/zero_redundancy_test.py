"""Slices of parameters, and optimizers whose state is split."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from gradiv.aggregation._exchange import finite, membership, slices
from tests import helpers

RNG = np.random.default_rng(5)


class ZeroRedundancyTest(parameterized.TestCase):

  @parameterized.parameters('vmap', 'shard_map')
  @pytest.mark.slow
  def test_zero_redundancy_equals_the_whole(self, backend):
    """Slices of parameters, updates and Adam's state; then put together."""
    start = {'w': jnp.float32(RNG.normal(size=(7, 3))), 'b': jnp.ones(2)}
    grads = jax.tree.map(
      lambda p: jnp.float32(RNG.normal(size=(4, *p.shape))), start)
    chain = lambda sharded: optax.chain(
      gradiv.aggregate_by_agreement(0.99, 'workers', sharded=sharded),
      optax.adam(0.1))

    def in_slices(g, params):
      tx = chain(True)
      parts = aggregation.slice_leaves(params, 'workers')
      state = tx.init(parts)
      for _ in range(3):
        updates, state = tx.update(g, state, parts)
        parts = optax.apply_updates(parts, updates)
      return aggregation.gather_leaves(parts, params, 'workers')

    def as_a_whole(g, params):
      tx = chain(False)
      state = tx.init(params)
      for _ in range(3):
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
      return params

    devices = jax.devices()[:4]
    helpers.assert_close(*(helpers.on_workers(
      fn, grads, start, backend=backend, devices=devices)
      for fn in (in_slices, as_a_whole)), 1e-5, 1e-6)

  def test_slices_are_kept_only_if_leaves_travel_alone(self):
    def fn(g, _):
      sent = slices.all_to_all(finite.contribute(
        g, membership.Participants.of('workers')))
      return slices.as_leaf_slices(sent, [rows[0] for rows in sent.rows])

    with self.assertRaisesRegex(ValueError, 'leaf_by_leaf=False'):
      helpers.on_workers(fn, {'a': np.ones((4, 3), 'f'), 'b': np.ones(
        (4, 2), 'f')})


if __name__ == '__main__':
  absltest.main()
