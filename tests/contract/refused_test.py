"""What is refused, and when; and dtypes that stay as they are."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from tests import helpers

ROOT = pathlib.Path(__file__).parents[2]


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_trimmed_mean(0.1, 'w'), 'num_trimmed=0.1'),
    (lambda: gradiv.aggregate_by_bulyan(0.2, 'w'), 'num_byzantine=0.2'),
    (lambda: gradiv.accumulate_by_agreement(.9, 2.5), 'num_micro_steps=2.5'),
    (lambda: gradiv.accumulate_by_agreement(.9, 1), 'at least 2'),
    (lambda: gradiv.aggregate_by_agreement(.9, 'w', num_anchors=1.5),
     'num_anchors=1.5'),
    (lambda: gradiv.aggregate_by_agreement(.9, 'w', num_stddevs=np.nan),
     'num_stddevs=nan'),
    (lambda: gradiv.aggregate_by_agreement('a', 'w'),
     "max_cosine_distance='a'"),
    (lambda: gradiv.aggregate_by_sign_dropout('w', key=None), 'key=None'),
    (lambda: gradiv.aggregate_by_weights(
      weightings.mean(), 'w', num_workers=2.5), 'num_workers=2.5'),
    (lambda: gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.), 'w', extra='momentum'),
     "extra='momentum'"),
    (lambda: weightings.centered_clipping(float('inf')), 'radius=inf'),
    (lambda: weightings.krum(0, power=float('inf')), 'power=inf'),
    (lambda: weightings.max_neighbors(lambda t: 1.), 'max_cosine_distance='),
    (lambda: gradiv.skip_zero_updates(optax.identity(), axis_name=''),
     "axis_name=''"))
  def test_at_construction(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  @parameterized.parameters(
    (dict(), 'update was not given anchor='),
    (dict(anchor={'b': jnp.ones(2)}), 'anchor must be a tree like'),
    (dict(anchor={'a': jnp.ones(3)}), 'anchor must be a tree like'))
  def test_extra_trees(self, given, message):
    tx = gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.), 'workers', extra=('anchor',))
    grads = {'a': np.ones((4, 2), np.float32)}
    with self.assertRaisesRegex(ValueError, message):
      helpers.on_workers(
        lambda g, s: tx.update(g, s, **given), grads,
        tx.init({'a': jnp.ones(2)}))

  def test_one_weight_for_each_worker(self):
    with self.assertRaisesRegex(ValueError, r'shape \(2,\).*the 4 workers'):
      helpers.on_workers(
        lambda g, w: gradiv.combine(g, w, 'workers'), np.ones((4, 2), 'f'),
        jnp.ones(2))


class DtypesTest(absltest.TestCase):

  def test_the_last_update_keeps_the_dtype_of_the_parameters(self):
    tx = gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.), 'workers')
    grads = jnp.ones((4, 3), jnp.bfloat16)

    def steps(g, state):
      return jax.lax.scan(
        lambda s, _: (tx.update(g, s)[1], None), state, None, length=2)[0]

    state = helpers.on_workers(steps, grads, tx.init(jnp.zeros(3)))
    self.assertEqual(state.last.dtype, jnp.float32)

  def test_with_float64_enabled(self):
    """States keep their dtypes, and what float32 cannot square is left out."""
    code = '''
import jax, jax.numpy as jnp, numpy as np, gradiv
from gradiv import weightings as w
rules = [w.adasum(), w.adacons(), w.mgda(), w.cagrad(), w.nash_mtl(),
         w.dual_proj(), w.gradvac(), w.pcgrad(), w.upgrad(), w.imtl_g(),
         w.conflict_free(), w.aligned_mtl(), w.nearest_neighbor_mixing(1), w.krum(1),
         w.geometric_median(), w.agreement(1.), w.max_neighbors(1.),
         w.minimum_diameter(1), lambda gram: jnp.ones(4, int)]
grads = np.random.default_rng(0).normal(size=(4, 9))
for rule in rules:
  tx = gradiv.aggregate_by_weights(
    rule, 'workers', key=jax.random.key(0), num_workers=4)
  for dtype in (np.float32, np.float64):
    def steps(g):
      return jax.lax.scan(lambda s, _: (tx.update(g, s)[1], None),
                          tx.init(g), None, length=2)[0]
    jax.vmap(steps, axis_name='workers', out_axes=None)(grads.astype(dtype))
grads[0, 0] = 1e25
for tx in (gradiv.aggregate_by_weights(w.geometric_median(), 'workers'),
           gradiv.aggregate_by_mean('workers'),
           gradiv.aggregate_by_median('workers')):
  update, state = jax.vmap(lambda g: tx.update(g, tx.init(g)),
                           axis_name='workers', out_axes=None)(grads)
  assert int(state.num_left_out) == 1 and np.abs(update).max() < 9, update
print('all held')
'''
    done = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {'JAX_ENABLE_X64': '1'}, timeout=240)
    self.assertEqual(done.stdout.strip(), 'all held', done.stderr[-2000:])


if __name__ == '__main__':
  absltest.main()
