"""Ten chains over the devices of several processes give one numbers."""

import json

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from tests import processes
from tests.gradiv.meshes import chains, ways

STEPS, WORKERS = 5, 4

SCRIPT = f"""
import json
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from tests.gradiv.meshes import chains, ways

def whole(tree):
  gathered = multihost_utils.process_allgather(tree, tiled=True)
  return [np.asarray(x).tolist() for x in jax.tree.leaves(gathered)]

found = {{}}
for name, chain in chains.CHAINS.items():
  found[name] = {{
    'map_workers': whole(ways.by_map_workers(
      chain, 'shard_map', {WORKERS}, {STEPS})),
    'on_mesh_auto': whole(ways.by_on_mesh(
      chain, AxisType.Auto, steps={STEPS}, devices={WORKERS})),
    'on_mesh_explicit': whole(ways.by_on_mesh(
      chain, AxisType.Explicit, steps={STEPS}, devices={WORKERS})),
  }}
print('found', json.dumps(found), flush=True)
"""


class ProcessesTest(parameterized.TestCase):

  @parameterized.parameters((2, 2), (4, 1))
  @pytest.mark.slow
  def test_ten_chains(self, num_processes, devices_each):
    written = processes.run_script(
      SCRIPT, num_processes, devices_each=devices_each, timeout=600)
    for text in written:
      line, = [x for x in text.splitlines() if x.startswith('found')]
      found = json.loads(line.removeprefix('found'))
      self.assertEqual(found.keys(), chains.CHAINS.keys())
      for name, chain in chains.CHAINS.items():
        wanted = ways.by_map_workers(chain, 'vmap', WORKERS, STEPS)
        leaves = [np.asarray(x) for x in jax.tree.leaves(wanted)]
        for way, got in found[name].items():
          for one, other in zip(got, leaves, strict=True):
            # Sums over processes are taken in another order.
            np.testing.assert_allclose(
              np.array(one), other, rtol=0, atol=5e-6 * np.abs(other).max(),
              err_msg=f'{name} {way}')


if __name__ == '__main__':
  absltest.main()
