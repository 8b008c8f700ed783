"""Per-example statistics of every loss in the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import per_example
from tests.gradiv.per_example import reference, zoo

# A lookup beside a product, a loop, terms that are no product beside products,
# and a penalty that is common to all examples.
FEW = ('embedding_tied_to_the_logits', 'scan_lstm', 'weights_in_one_vector',
       'weight_decay_in_the_loss')


def few(*others):
  return parameterized.named_parameters(
    (name, zoo.NAMED[name]) for name in (*FEW, *others))


def taken(batch, n):
  """Return a batch of n examples, repeating the first ones if needed."""
  return jax.tree.map(lambda x: x[np.arange(n) % len(x)], batch)


class ZooTest(parameterized.TestCase):

  # Neighbors in the list are alike: one in eight shows what a change breaks.
  @parameterized.named_parameters(
    (case.name, case) for case in zoo.CASES[::8])
  def test_equals_the_gradient_of_each_example(self, case):
    self.check(case)

  @parameterized.named_parameters(
    (case.name, case) for i, case in enumerate(zoo.CASES) if i % 8)
  @pytest.mark.slow
  def test_the_rest_equals_the_gradient_of_each_example(self, case):
    self.check(case)

  def check(self, case):
    reference.check(*case.make(), has_aux=case.has_aux,
                    tolerance=case.tolerance)

  @parameterized.named_parameters(
    (case.name, case) for case in zoo.CASES[::4])
  def test_falls_back_where_it_is_marked(self, case):
    self.check_fallback(case)

  @parameterized.named_parameters(
    (case.name, case) for i, case in enumerate(zoo.CASES) if i % 4)
  @pytest.mark.slow
  def test_the_rest_falls_back_where_it_is_marked(self, case):
    self.check_fallback(case)

  def check_fallback(self, case):
    with reference.little_room():
      rows = per_example.explain(*case.make(), has_aux=case.has_aux).rows
    behind = {row.reason.removeprefix('no product behind ')
              for row in rows if row.rule == 'fallback'}
    self.assertEqual(behind, set(case.falls_back))

  @parameterized.named_parameters((case.name, case) for case in zoo.CASES)
  @pytest.mark.slow
  def test_equals_it_in_little_room_too(self, case):
    reference.check(*case.make(), has_aux=case.has_aux,
                    tolerance=case.tolerance, gram_room=reference.little_room)

  @few('wide_dense_on_sequences', 'weight_normalized')
  @pytest.mark.slow
  def test_gram_matrix_equals_it_in_little_room_too(self, case):
    reference.check(*case.make(), gram_room=reference.little_room)

  def test_squares_are_not_negative_where_positions_cancel(self):
    """Otherwise their roots, by which gradients are clipped, would be NaN."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: np.float32(rng.normal(size=shape))

    def loss_fn(w, e):
      # All positions hold the same x, and their errors add up to zero.
      h = e['x'] @ w
      return jnp.sum(jnp.square(h - h.mean(0, keepdims=True) - e['y']))

    squares = reference.quick_jit(lambda w, e: per_example.example_sq_norms(
      loss_fn)(w, e)[1])(draw(64, 64), {
        'x': np.repeat(draw(16, 1, 64), 4, 1), 'y': draw(16, 4, 64)})
    self.assertTrue(np.all(squares >= 0), squares)

  @few('auxiliary_outputs')
  def test_microbatches_change_nothing(self, case):
    loss_fn, params, batch = case.make()
    batch = taken(batch, 6)

    @reference.quick_jit
    def both(params, batch):
      loss, grads, moments = per_example.example_moments(
        loss_fn, has_aux=case.has_aux, microbatch_size=2)(params, batch)
      return (loss, reference.floating(grads, params), moments,
              reference.gradients(loss_fn, params, batch, case.has_aux))

    loss, grads, moments, expected = both(params, batch)
    truth = reference.Truth(*expected)
    truth.check_mean_loss(loss)
    truth.check_sum(grads, np.full(6, 1 / 6))
    truth.check_moments(moments)

  @few('cond_by_the_example')
  @pytest.mark.slow
  def test_masked_examples_do_not_count(self, case):
    """Padding may hold anything: here, NaN in all floating-point arrays."""
    loss_fn, params, batch = case.make()
    mask = np.array([True, False, True, True, False])
    spoil = lambda x: np.where(
      mask.reshape(-1, *(1,) * (x.ndim - 1)), x, np.nan
    ).astype(x.dtype) if x.dtype.kind == 'f' else x
    weights = reference.weights_of(5) + 1

    @reference.quick_jit
    def both(params, batch, padded):
      results = []
      for kwargs in ({}, {'microbatch_size': 1}):
        loss, grads, moments = per_example.example_moments(
          loss_fn, **kwargs)(params, padded, mask=mask)
        results.append((loss, reference.floating(grads, params), moments))
      losses, squares, combine = per_example.example_sq_norms(loss_fn)(
        params, padded, mask=mask)
      _, gram, combine_rows = per_example.example_gram(loss_fn)(
        params, padded, mask=mask)
      sums = [reference.floating(c(weights), params)
              for c in (combine, combine_rows)]
      return (results, losses, squares, gram, sums,
              reference.gradients(loss_fn, params, batch))

    results, losses, squares, gram, sums, expected = both(
      params, batch, jax.tree.map(spoil, batch))
    truth = reference.Truth(*expected).of(np.flatnonzero(mask))
    for loss, grads, moments in results:
      truth.check_mean_loss(loss)
      truth.check_sum(grads, np.full(3, 1 / 3))
      truth.check_moments(moments)
    truth.check_losses(losses[mask])
    truth.check_squares(squares[mask])
    truth.check_gram(gram[mask][:, mask])
    for total in sums:
      truth.check_sum(total, weights[mask])
    np.testing.assert_array_equal(losses[~mask], 0)
    np.testing.assert_array_equal(squares[~mask], 0)
    self.assertTrue(np.isnan(gram[~mask]).all())
    self.assertTrue(np.isnan(gram[:, ~mask]).all())

  @few('linen_mlp')
  @pytest.mark.slow
  def test_groups_are_measured_apart(self, case):
    """Each group has its own statistics and its own weights."""
    loss_fn, params, batch = case.make()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    of_leaves = [gradiv.by_layer(path) for path in paths]
    names = gradiv.group_names(params, gradiv.by_layer)
    weights = np.stack([reference.weights_of(5) + k
                        for k in range(len(names))])

    @reference.quick_jit
    def both(params, batch, weights):
      of = lambda make: make(loss_fn, groups=gradiv.by_layer)(params, batch)
      _, _, moments = of(per_example.example_moments)
      _, squares, combine = of(per_example.example_sq_norms)
      _, gram, combine_rows = of(per_example.example_gram)
      return (moments, squares, gram,
              [jax.tree.leaves(c(weights)) for c in (combine, combine_rows)],
              reference.gradients(loss_fn, params, batch))

    moments, squares, grams, sums, expected = both(params, batch, weights)
    truth = reference.Truth(*expected)
    for found in (*moments, squares, grams):
      self.assertLen(found, len(names))
    for i, name in enumerate(names):
      mine = [k for k, other in enumerate(of_leaves) if other == name]
      part = truth.of(leaves=mine)
      part.check_moments(jax.tree.map(lambda x, i=i: x[i], moments))
      part.check_squares(squares[i])
      part.check_gram(grams[i])
      for total in sums:
        part.check_sum([total[k] for k in mine], weights[i])
    # They add up to the whole, so each parameter is in one group.
    truth.check_squares(sum(squares))
    truth.check_gram(sum(grams))

  @parameterized.parameters(
    ('vmap', 'scan_lstm'), ('shard_map', 'weight_decay_in_the_loss'))
  def test_workers_are_one_batch(self, backend, name):
    self.check_workers(backend, name)

  @parameterized.parameters(
    ('shard_map', 'scan_lstm'), ('vmap', 'weight_decay_in_the_loss'))
  @pytest.mark.slow
  def test_so_they_are_the_other_way_round(self, backend, name):
    self.check_workers(backend, name)

  def check_workers(self, backend, name):
    """Four workers have two examples each, some of them masked."""
    loss_fn, params, batch = zoo.NAMED[name].make()
    batch = taken(batch, 8)
    mask = np.array([1, 1, 0, 1, 0, 0, 1, 1], bool)
    of_worker = per_example.example_moments(loss_fn, axis_name='workers')

    def run(params, batch, mask):
      loss, grads, moments = of_worker(params, batch)
      return loss, grads, moments, of_worker(params, batch, mask=mask)

    rows = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), (batch, mask))
    *whole, masked = gradiv.map_workers(
      run, 'workers', in_axes=(None, 0, 0), out_axes=None, backend=backend
    )(params, *rows)
    truth = reference.Truth(*reference.quick_jit(
      lambda p, b: reference.gradients(loss_fn, p, b))(params, batch))
    for (loss, grads, moments), part in (
        (whole, truth), (masked, truth.of(np.flatnonzero(mask)))):
      part.check_mean_loss(loss)
      part.check_sum(jax.tree.leaves(grads), np.full(part.n, 1 / part.n))
      part.check_moments(moments)


if __name__ == '__main__':
  absltest.main()
