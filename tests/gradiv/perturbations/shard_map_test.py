"""Perturbations and compressors in a user's own shard_map, tracked or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import compression, perturbations
from tests import helpers

KEY = jax.random.key(0)
AXIS = 'workers'
COMMON = (
  ('low_rank', lambda: compression.aggregate_by_low_rank(2, AXIS, key=KEY)),
  ('wire_4', lambda: gradiv.aggregate_by_quantized_mean(4, AXIS, key=KEY)),
  ('mechanisms', lambda: optax.chain(
    gradiv.drop_updates(0.3, key=KEY, axis_name=AXIS),
    gradiv.add_langevin_noise(0.1, key=KEY, axis_name=AXIS),
    gradiv.quantize_updates(2, key=KEY, axis_name=AXIS),
    gradiv.aggregate_by_mean(AXIS),
    perturbations.precondition_langevin(0.1, key=KEY))),
)
PRIVATE = (
  ('top_k', lambda: optax.chain(
    gradiv.with_error_feedback(gradiv.keep_top_k(0.3)),
    gradiv.aggregate_by_mean(AXIS))),
  ('low_rank', lambda: gradiv.with_error_feedback(
    compression.aggregate_by_low_rank(2, AXIS, key=KEY))),
)


class ShardMapTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(16)
    self.mesh = Mesh(np.array(jax.devices()[:4]), (AXIS,))
    self.grads = {'w': jnp.float32(rng.normal(size=(4, 9, 7))),
                  'b': jnp.float32(rng.normal(size=(4, 3)))}
    self.like = jax.tree.map(lambda g: g[0], self.grads)

  def mapped(self, fn, state_spec, check_vma):
    # With check_vma=True, a result that leaves through P() must have a type
    # that does not vary.
    return jax.jit(jax.shard_map(
      fn, mesh=self.mesh, in_specs=(P(AXIS), state_spec),
      out_specs=state_spec, check_vma=check_vma))

  @parameterized.named_parameters(*COMMON)
  @pytest.mark.slow
  def test_common_results(self, make):
    tx = make()
    fn = lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s)
    tracked, plain = (
      self.mapped(fn, P(), vma)(self.grads, tx.init(self.like))
      for vma in (True, False))
    helpers.assert_close(tracked, plain, 1e-6, 1e-6)

  @parameterized.named_parameters(*PRIVATE)
  def test_private_state(self, make):
    tx = make()

    def fn(g, s):
      own = jax.tree.map(lambda x: x[0], (g, s))
      return jax.tree.map(lambda x: x[None], tx.update(*own))

    state = gradiv.replicate(tx.init(self.like), 4)
    tracked, plain = (
      self.mapped(fn, P(AXIS), vma)(self.grads, state)
      for vma in (True, False))
    helpers.assert_close(tracked, plain, 1e-6, 1e-6)


if __name__ == '__main__':
  absltest.main()
