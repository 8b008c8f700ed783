"""The tap on parameters that tensor parallelism cuts up as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

import gradiv
from gradiv import weightings
from gradiv.meshes import fsdp
from tests import helpers

WORKERS, PARTS, WIDTH, HIDDEN, ROWS = 4, 2, 8, 16, 3
MESH = jax.make_mesh((WORKERS, PARTS), ('data', 'model'),
                     axis_types=(AxisType.Auto,) * 2)
RNG = np.random.default_rng(0)
PARAMS = {
  name: RNG.normal(size=shape).astype('f') / 3 for name, shape in {
    'up': (WIDTH, HIDDEN), 'up_bias': (HIDDEN,), 'down': (HIDDEN, WIDTH),
    'bias': (WIDTH,)}.items()}
# Parts along "data" of parts along "model"; all but one leaf has these.
SPECS = {'up': P('data', 'model'), 'up_bias': P(('model', 'data')),
         'down': P('model', 'data'), 'bias': P('data')}
DIMS = {'up': 0, 'up_bias': 0, 'down': 1, 'bias': 0}
IS_SHARDED = lambda path: path[0].key != 'bias'
LAYOUT = gradiv.Layout(sharded_over='model', is_sharded=IS_SHARDED)
X = RNG.normal(size=(WORKERS * ROWS, WIDTH)).astype('f')
RULE = weightings.geometric_median()
BOTH = 'data', 'model'


@jax.custom_vjp
def sum_forward(x):
  """Sum over 'model'; its gradient is common, and is not summed again."""
  return lax.psum(x, 'model')


sum_forward.defvjp(lambda x: (sum_forward(x), None), lambda _, g: (g,))


def loss(params, x, total=lambda y: y):
  h = jnp.tanh(x @ params['up'] + params['up_bias'][None])
  y = total(h @ params['down']) + params['bias'][None]
  return jnp.mean(jnp.square(y - 1))


def one_by_one():
  return [jax.grad(loss)(PARAMS, rows) for rows in np.split(X, WORKERS)]


def tapped(gather, shape, finish, way, *, probe_axes=BOTH):
  """Make a step; a way is 'tracked', 'untracked' or 'by the compiler'.

  Args:
    gather: Function of the name of a leaf to the tap.
    shape: Shape of the probes.
    finish: Function of both gradients, within `shard_map`.
    way: Whether 'model' is manual, and jax tracks what varies over it.
    probe_axes: Axes of the probes.
  """
  is_manual = way != 'by the compiler'
  total = {'tracked': lambda y: lax.psum(y, 'model'),
           'untracked': sum_forward}.get(way, lambda y: y)
  own = lambda spec: P(*('data' if x and 'data' in x else None for x in spec))
  specs = SPECS if is_manual else jax.tree.map(
    own, SPECS | {'up_bias': P('data')}, is_leaf=lambda x: isinstance(x, P))

  def step(params, x):
    def own_loss(params, probes):
      whole = {k: gather(k)(p, probes[k], 'data', DIMS[k])
               for k, p in params.items()}
      return loss(whole, x, total)

    probes = fsdp.probes(params, probe_axes if is_manual else 'data', shape)
    return finish(*jax.grad(own_loss, (0, 1))(params, probes))

  return jax.jit(jax.shard_map(
    step, mesh=MESH, in_specs=(specs, P('data')), out_specs=(specs, P()),
    axis_names={*BOTH} if is_manual else {'data'},
    check_vma=way != 'untracked'))


class ModelAxisTest(parameterized.TestCase):

  def check_moments(self, way):
    layout = None if way == 'by the compiler' else LAYOUT
    grads, moments = tapped(
      lambda name: fsdp.gather, (), lambda g, squares: (g, fsdp.moments_of(
        g, squares, 'data', batch_size=ROWS, layout=layout)), way)(PARAMS, X)
    single = one_by_one()
    mean = jax.tree.map(lambda *g: np.mean(g, 0), *single)
    helpers.assert_close(grads, mean, of_largest=1e-6)
    total = lambda tree: sum(
      np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(tree))
    np.testing.assert_allclose(moments.sq_norm_of_mean, total(mean), 1e-5)
    np.testing.assert_allclose(
      moments.mean_sq_deviation,
      np.mean([total(g) for g in single]) - total(mean), 1e-5)

  def test_norms_of_whole_gradients(self):
    self.check_moments('tracked')

  @parameterized.parameters('untracked', 'by the compiler')
  @pytest.mark.slow
  def test_where_jax_tracks_no_model_axis(self, way):
    self.check_moments(way)

  @parameterized.parameters('tracked', 'untracked', 'by the compiler')
  @pytest.mark.slow
  def test_the_gram_matrix(self, way):
    def finish(grads, parts):
      whole = lambda path, x: lax.psum(
        x, BOTH if IS_SHARDED(path) and way != 'by the compiler' else 'data')
      if way == 'tracked':  # its probe varies over 'model', it does not
        parts['bias'] = lax.pmean(parts['bias'], 'model')
      return grads, sum(jax.tree.leaves(
        jax.tree_util.tree_map_with_path(whole, parts)))

    _, gram = tapped(lambda name: fsdp.gather_gram, (WORKERS, WORKERS),
                     finish, way)(PARAMS, X)
    rows = np.stack([np.concatenate([np.float64(x).ravel() for x in
                                     jax.tree.leaves(g)])
                     for g in one_by_one()])
    np.testing.assert_allclose(gram, rows @ rows.T, 1e-5, 1e-6)

  @parameterized.parameters('tracked', 'untracked', 'by the compiler')
  @pytest.mark.slow
  def test_parts_decide_together(self, way):
    def gather(name):
      is_cut = name != 'bias' and way != 'by the compiler'
      return fsdp.gather_by(RULE, sharded_over='model' if is_cut else None)

    grads, _ = tapped(gather, (WORKERS,), lambda g, _: (g, ()), way)(PARAMS, X)
    single = one_by_one()
    for name in PARAMS:
      leaves = np.stack([np.asarray(g[name]) for g in single])
      rows = leaves.reshape(WORKERS, -1)
      weights = RULE(jnp.float32(rows @ rows.T))
      np.testing.assert_allclose(
        grads[name], np.tensordot(weights, leaves, 1), 1e-4, 1e-5)

  def test_what_would_see_one_part_is_an_error(self):
    finish = lambda g, _: (g, ())
    with self.assertRaisesRegex(ValueError, 'model.*probes'):
      tapped(lambda name: fsdp.gather, (), finish, 'tracked',
             probe_axes='data')(PARAMS, X)
    with self.assertRaisesRegex(ValueError, 'sharded_over=None.*model'):
      tapped(lambda name: fsdp.gather_by(RULE), (WORKERS,), finish,
             'tracked')(PARAMS, X)


if __name__ == '__main__':
  absltest.main()
