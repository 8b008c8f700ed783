"""Statistics over the examples of workers, each with a batch of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
    ('vmap', 'workers'), ('pmap', 'workers'),
    ('shard_map', ('devices', 'virtual')))
  def test_all_examples_count_alike(self, backend, axis_name):
    self.check_alike(backend, axis_name)

  @parameterized.parameters(
    ('shard_map', 'workers'), ('vmap', ('devices', 'virtual')))
  @pytest.mark.slow
  def test_so_they_do_in_other_layouts(self, backend, axis_name):
    self.check_alike(backend, axis_name)

  def check_alike(self, backend, axis_name):
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

  def test_clipping_sums_over_workers_once(self):
    """Each leaf of the result, and nothing for the norms."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ('workers',))

    def clipped(params, batch):
      _, squares, combine = per_example.example_sq_norms(
        loss_fn, axis_name='workers')(params, batch)
      return combine(jnp.minimum(1, 1 / squares))

    sums = reductions(jax.make_jaxpr(jax.shard_map(
      clipped, mesh=mesh, in_specs=(P(), P('workers')), out_specs=P(),
      check_vma=False))(PARAMS, BATCH).jaxpr)
    self.assertEqual(sorted(shape for group in sums for shape in group),
                     [(2,), (3, 2)])

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

  @parameterized.parameters(
    ('shard_map', 'workers', 1), ('vmap', ('devices', 'virtual'), None))
  def test_own_norms_and_a_sum_over_all(self, backend, axis_name, size):
    self.check_norms(backend, axis_name, size)

  @parameterized.parameters(
    ('vmap', 'workers', None), ('pmap', 'workers', None),
    ('vmap', ('devices', 'virtual'), 1))
  @pytest.mark.slow
  def test_so_they_are_in_other_layouts(self, backend, axis_name, size):
    self.check_norms(backend, axis_name, size)

  def check_norms(self, backend, axis_name, size):
    """To clip each example of every worker."""
    most = np.median(np.linalg.norm(truth().rows, axis=1))
    norms_fn = per_example.example_sq_norms(
      loss_fn, axis_name=axis_name, microbatch_size=size)

    def run(params, batch, mask):
      losses, squares, combine = norms_fn(params, batch, mask=mask)
      scale = jnp.minimum(1, most * jax.lax.rsqrt(squares))
      return (losses, squares), combine(scale)

    (losses, squares), total = gradiv.map_workers(
      run, axis_name, in_axes=(None, 0, 0), out_axes=(0, None),
      backend=backend)(PARAMS, ROWS, MASK.reshape(4, 2))
    part = truth().of(np.flatnonzero(MASK))
    part.check_losses(losses.ravel()[MASK])
    part.check_squares(squares.ravel()[MASK])
    part.check_sum(reference.floating(total, PARAMS), np.minimum(
      1, most / np.linalg.norm(part.rows, axis=1)))

  def test_own_gram_matrix_and_a_sum_over_all(self):
    gram_fn = per_example.example_gram(loss_fn, axis_name='workers')

    def run(params, batch):
      _, gram, combine = gram_fn(params, batch)
      weights = gradiv.weightings.norm_clipping(8.)(gram)
      return (gram, weights), combine(weights)

    (grams, weights), total = gradiv.map_workers(
      run, 'workers', in_axes=(None, 0), out_axes=(0, None))(PARAMS, ROWS)
    for k in range(4):
      truth().of(slice(2 * k, 2 * k + 2)).check_gram(grams[k])
    truth().check_sum(reference.floating(total, PARAMS), weights.ravel())

  @parameterized.parameters(None, 1)
  def test_common_parameters_where_jax_tracks_what_varies(self, size):
    """With the name of the axis, nobody has to think of `as_private`."""
    of_norms = per_example.example_sq_norms(
      loss_fn, axis_name='workers', microbatch_size=size)
    of_gram = per_example.example_gram(loss_fn, axis_name='workers')

    def run(params, batch, mask):
      weights = jnp.where(mask, 1., 0.)
      _, squares, combine = of_norms(params, batch)
      with reference.little_room():
        _, gram, also = of_gram(params, batch)
      return (squares, gram), (combine(weights), also(weights))

    # The second P(): what `combine` returns is typed as common to the workers.
    (squares, gram), sums = sharded(
      run, out_specs=(P('workers'), P()))(PARAMS, BATCH, MASK)
    truth().check_squares(squares)
    for k in range(4):
      truth().of(range(2 * k, 2 * k + 2)).check_gram(gram[2 * k:2 * k + 2])
    for total in sums:
      truth().check_sum(reference.floating(total, PARAMS), MASK)

  def test_private_parameters_where_jax_tracks_what_varies(self):
    """Without the name of the axis, `combine` adds up a worker's own."""
    def run(params, batch, mask):
      params = gradiv.as_private(params, 'workers')
      _, squares, combine = per_example.example_sq_norms(loss_fn)(params, batch)
      return squares, combine(jnp.where(mask, 1., 0.))['w']

    squares, sums = sharded(run, out_specs=P('workers'))(PARAMS, BATCH, MASK)
    truth().check_squares(squares)
    for k in range(4):
      leaf = truth().of(range(2 * k, 2 * k + 2), leaves=[1])
      leaf.check_sum([sums[3 * k:3 * k + 3]], MASK[2 * k:2 * k + 2])

  def test_common_parameters_without_the_name_of_the_axis(self):
    """Their gradient is the sum over the workers, and of no example."""
    for make in (per_example.example_moments, per_example.example_sq_norms,
                 per_example.example_gram):
      with self.assertRaisesRegex(
          ValueError, "^params are common .*axis_name='workers'"):
        sharded(lambda p, b, mask, make=make: make(loss_fn)(p, b)[0],
                out_specs=P('workers'))(PARAMS, BATCH, MASK)

  def test_a_collective_in_the_loss_is_not_blamed_on_the_parameters(self):
    """Nor is an argument advised that has been given."""
    mixing = lambda p, e: loss_fn(p, e) * jax.lax.pmean(
      jnp.sum(e['y']), 'workers')
    for make in (per_example.example_moments, per_example.example_sq_norms,
                 per_example.example_gram):
      with self.assertRaisesRegex(
          ValueError, "^loss_fn mixes examples by a collective, psum.*alone"):
        sharded(lambda p, b, mask, make=make: make(
          mixing, axis_name='workers')(p, b)[0],
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
