"""A worker with nothing to give does not leave the others waiting."""

import pathlib
import subprocess
import sys

import pytest
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
import sys

import tests.conftest
import jax, jax.numpy as jnp, numpy as np, optax
import gradiv
from gradiv import aggregation

KEY = jax.random.key(0)
RULES = [
  gradiv.aggregate_by_mean('workers'),
  gradiv.aggregate_by_agreement(0.9, 'workers'),
  gradiv.aggregate_by_agreement(0.9, 'workers', key=KEY, num_anchors=8),
  gradiv.aggregate_by_weights(
    gradiv.weightings.geometric_median(), 'workers'),
  gradiv.aggregate_by_median('workers'),
  gradiv.aggregation.aggregate_by_bulyan(1, 'workers'),
]
grads = np.random.default_rng(0).normal(size=(8, 500)).astype('f')
grads[3, 7], grads[5, 0] = np.nan, np.inf

def train(g, params):
  # Each rule for a while, in one program; and an optimizer that stands still.
  for rule in RULES:
    tx = optax.chain(rule, gradiv.skip_zero_updates(optax.adam(0.1)))
    def step(carry, _):
      params, state = carry
      updates, state = tx.update(g * params[0], state, params)
      return (optax.apply_updates(params, updates), state), None
    (params, _), _ = jax.lax.scan(
      step, (params, tx.init(params)), None, length=20)
  return params

mapped = gradiv.map_workers(train, 'workers', in_axes=(0, None), out_axes=None,
                            backend=sys.argv[1])
print(bool(jnp.isfinite(mapped(grads, jnp.ones(500))).all()))
"""


class DeadlockTest(parameterized.TestCase):

  @parameterized.parameters('vmap', 'pmap', 'shard_map')
  @pytest.mark.slow
  def test_ends_in_time(self, backend):
    # Ten seconds are usual; a deadlock would last forever.
    done = subprocess.run(
      [sys.executable, '-c', PROGRAM, backend], cwd=ROOT,
      capture_output=True, text=True, timeout=180)
    self.assertEqual(done.stdout.strip(), 'True', done.stderr[-2000:])


if __name__ == '__main__':
  absltest.main()
