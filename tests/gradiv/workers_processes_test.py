"""Workers of several real processes."""

import json

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from tests import processes

# What every process computes, and what one process computes of all workers.
CHAINS = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
import gradiv

KEY = jax.random.key(0)
GRADS = np.random.default_rng(0).normal(0.3, 1, (4, 50)).astype('f')
CHAINS = dict(
  tracked=lambda: optax.chain(  # its state starts as NaN
    gradiv.track_moments('workers', batch_size=4),
    gradiv.aggregate_by_mean('workers')),
  agreement=lambda: gradiv.aggregate_by_agreement(0.97, 'workers', key=KEY),
  noise=lambda: optax.chain(
    gradiv.add_langevin_noise(0.1, key=KEY, axis_name='workers'),
    gradiv.aggregate_by_mean('workers')))

def run(*inputs, **options):
  chains = {name: make() for name, make in CHAINS.items()}
  step = gradiv.map_workers(
    lambda g, states, scale: {
      name: tx.update(g * scale, states[name])
      for name, tx in chains.items()},
    'workers', in_axes=(0, None, None), out_axes=None, **options)
  results = []
  for grads in inputs:
    states = {name: tx.init(np.zeros(50, 'f')) for name, tx in chains.items()}
    for scale in (2., np.float32(1)):
      found = step(grads, states, scale)
      states = {name: state for name, (_, state) in found.items()}
    results.append({name: np.asarray(updates).tolist()
                    for name, (updates, _) in found.items()})
  return results
"""

SCRIPT = CHAINS + """
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
index, each = jax.process_index(), jax.local_device_count()
own = GRADS[index * each:(index + 1) * each]
mesh = Mesh(np.array(jax.devices())[::-1], ('workers',))
whole = jax.make_array_from_callback(
  GRADS.shape, NamedSharding(mesh, P('workers')), lambda i: GRADS[i])
found = {}
found['own'], found['all'] = run(own, GRADS, backend='shard_map')
found['laid_out'], = run(whole, backend='shard_map', mesh=mesh)
rank = lambda **kw: gradiv.map_workers(
  lambda x: (x, jax.lax.axis_index('workers')), 'workers', **kw)
_, places = rank(mesh=mesh, backend='shard_map')(whole)
found['places'] = [[int(s.data[0]), jax.devices().index(s.device)]
                   for s in places.addressable_shards]
found['errors'] = []
for call in (lambda: rank(backend='shard_map', devices=jax.devices()[:each])(
               GRADS[:each]),
             lambda: rank(backend='pmap')(own)):
  try:
    call()
    found['errors'].append('')
  except ValueError as error:
    found['errors'].append(str(error))
print('found', json.dumps(found), flush=True)
"""


class ProcessesTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_two_processes_of_two_workers(self):
    self.check(2, 2)

  @pytest.mark.slow
  def test_four_processes_of_one_worker(self):
    self.check(4, 1)

  def check(self, num_processes, devices_each):
    expected = {}
    exec(CHAINS + "\nresults, = run(GRADS)", expected)
    written = processes.run_script(
      SCRIPT, num_processes, devices_each=devices_each)
    for text in written:
      line, = [x for x in text.splitlines() if x.startswith('found')]
      found = json.loads(line.removeprefix('found'))
      for rows in ('own', 'all', 'laid_out'):
        for name, updates in expected['results'].items():
          np.testing.assert_allclose(
            found[rows][name], updates, 1e-5, 1e-6, err_msg=f'{rows} {name}')
      # Along the user's own mesh, whose devices are in reverse order.
      for place, device in found['places']:
        self.assertEqual(place, 3 - device)
      left_out, pmap = found['errors']
      self.assertRegex(left_out, r'processes \[1.*devices= or mesh=')
      self.assertRegex(pmap, "backend='pmap'.*single process")


if __name__ == '__main__':
  absltest.main()
