"""Statistics over the examples of workers, each with a batch of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import per_example
from tests.gradiv.per_example import reference

RNG = np.random.default_rng(0)
DRAW = lambda *shape: np.float32(RNG.normal(size=shape))
PARAMS = {'w': DRAW(3, 2), 'b': DRAW(2)}
BATCH = {'x': DRAW(8, 4, 3), 'y': DRAW(8, 2)}
# No worker counts as many examples as another; one counts none.
MASK = np.array([1, 1, 0, 0, 0, 1, 1, 0], bool)
# Examples of each worker: on 4 workers, and on 2 by 2.
ROWS = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), BATCH)


def loss_fn(params, example):
  """A product over positions, a branch and a penalty that all share."""
  out = jnp.tanh(example['x'] @ params['w'] + params['b'][None])
  out = jax.lax.cond(example['y'][0] > 0, jnp.sin, lambda x: 2 * x, out)
  return jnp.sum(jnp.square(jnp.sum(out, 0) - example['y'])) + (
    0.1 * jnp.sum(params['w']**2))


@functools.cache
def truth():
  grads = reference.quick_jit(
    lambda p, b: reference.gradients(loss_fn, p, b))(PARAMS, BATCH)
  return reference.Truth(*grads)


def check(results, part):
  loss, grads, moments = results
  part.check_mean_loss(loss)
  part.check_sum(reference.floating(grads, PARAMS), np.full(part.n, 1 / part.n))
  part.check_moments(moments)


def sharded(fn, **kwargs):
  """Map over four workers, tracking what varies."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ('workers',))
  return jax.jit(jax.shard_map(
    fn, mesh=mesh, in_specs=(P(), P('workers'), P('workers')),
    check_vma=True, **kwargs))


def reductions(jaxpr):
  """List what each sum over workers adds up: lists of shapes."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name.startswith('psum'):
      found.append([x.aval.shape for x in equation.outvars])
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        found += reductions(inner)
  return found


class WorkersTest(parameterized.TestCase):

  @parameterized.parameters(
    ('vmap', 'workers'), ('shard_map', 'workers'), ('pmap', 'workers'),
    ('vmap', ('devices', 'virtual')), ('shard_map', ('devices', 'virtual')))
  def test_all_examples_count_alike(self, backend, axis_name):
    of_worker = per_example.example_moments(loss_fn, axis_name=axis_name)
    run = gradiv.map_workers(
      lambda p, b, mask: (of_worker(p, b), of_worker(p, b, mask=mask)),
      axis_name, in_axes=(None, 0, 0), out_axes=None, backend=backend)
    whole, masked = jax.tree.map(np.asarray, run(
      PARAMS, ROWS, MASK.reshape(4, 2)))
    check(whole, truth())
    check(masked, truth().of(np.flatnonzero(MASK)))

  def test_one_sum_of_the_gradient(self):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ('workers',))
    for kwargs in ({}, {'microbatch_size': 1}):
      of_worker = per_example.example_moments(
        loss_fn, axis_name='workers', **kwargs)
      sums = reductions(jax.make_jaxpr(jax.shard_map(
        of_worker, mesh=mesh, in_specs=(P(), P('workers')), out_specs=P(),
        check_vma=False))(PARAMS, BATCH).jaxpr)
      shapes = sorted(shape for group in sums for shape in group)
      # The loss and the squares, and each leaf once; all count alike.
      self.assertEqual(shapes, [(), (), (2,), (3, 2)])

  @parameterized.parameters(None, 1)
  def test_where_jax_tracks_what_varies(self, microbatch_size):
    of_worker = per_example.example_moments(
      loss_fn, axis_name='workers', microbatch_size=microbatch_size)
    # P(): all that comes out is typed as common to the workers.
    whole, masked = sharded(
      lambda p, b, mask: (of_worker(p, b), of_worker(p, b, mask=mask)),
      out_specs=P())(PARAMS, BATCH, MASK)
    check(whole, truth())
    check(masked, truth().of(np.flatnonzero(MASK)))

  def test_private_parameters_where_jax_tracks_what_varies(self):

    def run(params, batch, mask):
      params = gradiv.as_private(params, 'workers')
      _, squares, _ = per_example.example_sq_norms(loss_fn)(params, batch)
      with reference.little_room():
        _, gram, combine = per_example.example_gram(loss_fn)(params, batch)
      return squares, gram, combine(jnp.where(mask, 1., 0.))['w']

    squares, gram, sums = sharded(run, out_specs=P('workers'))(
      PARAMS, BATCH, MASK)
    truth().check_squares(squares)
    for k in range(4):
      mine = truth().of(range(2 * k, 2 * k + 2))
      mine.check_gram(gram[2 * k:2 * k + 2])
      leaf = mine.of(leaves=[1])
      leaf.check_sum([sums[3 * k:3 * k + 3]], MASK[2 * k:2 * k + 2])

  def test_common_parameters_without_the_name_of_the_axis(self):
    """Their gradient is the sum over the workers, and of no example."""
    for make in (per_example.example_moments, per_example.example_sq_norms,
                 per_example.example_gram):
      with self.assertRaisesRegex(
          ValueError, 'mixes examples: psum.* name the axis of the workers'):
        sharded(lambda p, b, mask, make=make: make(loss_fn)(p, b)[0],
                out_specs=P('workers'))(PARAMS, BATCH, MASK)

  def test_a_loss_may_know_its_worker(self):
    """As by a random key for each worker; that mixes no examples."""
    scaled = lambda params, example: (
      1. + jax.lax.axis_index('workers')) * loss_fn(params, example)
    _, squares, _ = gradiv.map_workers(
      lambda p, b: (0, *per_example.example_sq_norms(scaled)(p, b)[1:2], 0),
      'workers', in_axes=(None, 0))(PARAMS, ROWS)
    np.testing.assert_allclose(
      squares.ravel() / np.repeat([1, 4, 9, 16], 2),
      np.sum(truth().rows**2, 1), 1e-5)


if __name__ == '__main__':
  absltest.main()
