"""Ten chains, run in every way that jax has: the same numbers."""

import functools

import jax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType

from tests import helpers
from tests.gradiv.meshes import chains, ways

CHAINS = chains.CHAINS
# Sums are taken in another order.
CLOSE = {'of_largest': 5e-6}
WAYS = {
  'map_workers_shard_map': lambda c, steps: ways.by_map_workers(
    c, 'shard_map', steps=steps),
  'map_workers_pmap': lambda c, steps: ways.by_map_workers(
    c, 'pmap', steps=steps),
  'shard_map_vma': lambda c, steps: ways.by_shard_map(c, True, steps=steps),
  'shard_map': lambda c, steps: ways.by_shard_map(c, False, steps=steps),
  'on_mesh_auto': lambda c, steps: ways.by_on_mesh(
    c, AxisType.Auto, steps=steps),
  'on_mesh_explicit': lambda c, steps: ways.by_on_mesh(
    c, AxisType.Explicit, steps=steps),
  'unreduced': lambda c, steps: ways.by_on_mesh(
    c, AxisType.Explicit, steps=steps, unreduced=True),
}
# The default run: what has most to find out by itself.
QUICK = (('delay', 'on_mesh_auto'), ('gossip', 'on_mesh_explicit'))


@functools.cache
def reference(name, n, steps):
  return ways.by_map_workers(CHAINS[name], 'vmap', n, steps)


def check(name, way):
  if way == 'unreduced' and jax.__version_info__[:2] < (0, 10):
    pytest.skip('jax has no such type')
  helpers.assert_close(
    WAYS[way](CHAINS[name], 10), reference(name, 8, 10), **CLOSE)


class TenChainsTest(parameterized.TestCase):

  @parameterized.parameters(*QUICK)
  def test_some(self, name, way):
    check(name, way)

  @parameterized.parameters(
    (name, way) for name in CHAINS for way in WAYS
    if (name, way) not in QUICK
    # Parameters of type reduced are common to the workers.
    and not (way == 'unreduced' and CHAINS[name].private == 'all'))
  @pytest.mark.slow
  def test_all(self, name, way):
    check(name, way)

  @parameterized.product(
    name=tuple(CHAINS), types=(AxisType.Auto, AxisType.Explicit))
  @pytest.mark.slow
  def test_shards_of_parameters(self, name, types):
    """Workers are replicas, each cut up over another axis (HSDP)."""
    chain = CHAINS[name]
    if name == 'agreement':
      # Adam's count would be that of one shard: each sees zeros of its own.
      with self.assertRaisesRegex(ValueError, 'count differs between shards'):
        ways.by_on_mesh(chain, types, shards=2)
      return
    # Sums in another order are rounded to other levels, sooner or later.
    steps = 2 if name == 'quantized' else 10
    found = ways.by_on_mesh(chain, types, shards=2, steps=steps)
    # What draws for each shard by itself is compared with shards.
    expected = (ways.by_shard_map(chain, False, shards=2, steps=steps)
                if chain.of_shards else reference(name, 4, steps))
    helpers.assert_close(found, expected, **CLOSE)


if __name__ == '__main__':
  absltest.main()
