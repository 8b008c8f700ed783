"""Groups of devices are averaged first, and send one part each to others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from experiments.cost import collectives
from gradiv import aggregation, compression, weightings
from tests import helpers, waits
from tests.gradiv.aggregation import overlap_test

HOSTS, MEMBERS = 4, 2
KEY = jax.random.key(0)
MESH = Mesh(np.array(jax.devices()).reshape(HOSTS, MEMBERS),
            ('hosts', 'members'))
OVER = gradiv.Layout(mean_over='members')
BY_LAYER = gradiv.Layout(mean_over='members', groups=gradiv.by_layer)
AGREEMENT = lambda layout: gradiv.aggregate_by_agreement(
  1.05, 'hosts', num_workers=HOSTS, layout=layout)
KRUM = lambda layout: gradiv.aggregate_by_weights(
  weightings.krum(1), 'hosts', layout=layout)
CLIPPING = lambda layout: gradiv.aggregate_by_weights(
  weightings.centered_clipping(2.), 'hosts', layout=layout)
MEDIAN = lambda layout: gradiv.aggregate_by_median('hosts', layout=layout)
SIGNS = lambda layout: gradiv.aggregate_by_sign_agreement(
  0.9, 'hosts', normalize=True, layout=layout)
BULYAN = lambda layout: aggregation.aggregate_by_bulyan(
  0, 'hosts', layout=layout)
LOW_RANK = lambda layout: compression.aggregate_by_low_rank(
  2, 'hosts', key=KEY, layout=layout)


def sample():
  rng = np.random.default_rng(5)
  draw = lambda *shape: rng.normal(
    0.3, 1, (HOSTS * MEMBERS, *shape)).astype('f')
  return {f'layer_{i}': {'w': draw(9, 11 + i), 'b': draw(7)}
          for i in range(3)}


def spoil(grads, devices):
  grads = jax.tree.map(np.copy, grads)
  for i, device in enumerate(devices):
    grads['layer_1']['w'][device, 2, 3] = (np.nan, np.inf, 1e30)[i]
  return grads


def step(tx, like, check_vma):
  """Compile a step of an aggregation on eight devices of four hosts."""
  return jax.jit(jax.shard_map(
    lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=MESH,
    in_specs=(P(('hosts', 'members')), P()), out_specs=P(),
    check_vma=check_vma)), tx.init(jax.tree.map(lambda x: x[0], like))


def means_of_hosts(grads):
  """Average the finite gradients of each host; NaN where there is none."""
  usable = np.all([(np.abs(x.reshape(len(x), -1)) < 1e17).all(1)
                   for x in jax.tree.leaves(grads)], 0)

  def mean(x):
    rows = zip(x.reshape(HOSTS, MEMBERS, *x.shape[1:]),
               usable.reshape(HOSTS, MEMBERS))
    return np.stack([g[ok].mean(0) if ok.any() else g[0] * np.nan
                     for g, ok in rows]).astype('f')

  return jax.tree.map(mean, grads)


class NumbersTest(parameterized.TestCase):

  def check(self, make, layout, check_vma):
    """One step of the groups, and one of as many workers with their means."""
    alone = make(gradiv.Layout(groups=layout.groups))
    grads = sample()
    grouped, state = step(make(layout), grads, check_vma)
    for bad in ((), (5,), (2, 3), (0, 5, 6)):
      update, after = grouped(spoil(grads, bad), state)
      means = means_of_hosts(spoil(grads, bad))
      expected, wanted = gradiv.map_workers(
        lambda g, s: alone.update(g, s), 'hosts', in_axes=(0, None),
        out_axes=None)(means, alone.init(
          jax.tree.map(lambda x: x[0], means)))
      helpers.assert_close(update, expected, 5e-6, of_largest=5e-6)
      self.assertEqual(int(after.num_left_out), len(bad))
      if hasattr(after, 'weights'):
        helpers.assert_close(after.weights, wanted.weights, 5e-6)

  def test_as_workers_with_the_means(self):
    self.check(AGREEMENT, OVER, True)

  @parameterized.parameters(
    (KRUM, OVER), (CLIPPING, OVER), (MEDIAN, OVER), (SIGNS, OVER),
    (BULYAN, OVER), (LOW_RANK, OVER), (AGREEMENT, BY_LAYER))
  @pytest.mark.slow
  def test_of_other_rules(self, make, layout):
    self.check(make, layout, check_vma=False)

  @pytest.mark.slow
  def test_the_moments(self):
    grads = sample()
    moments = lambda g: gradiv.worker_moments(
      jax.tree.map(lambda x: x[0], g), 'hosts', batch_size=4, layout=BY_LAYER)
    found = jax.jit(jax.shard_map(
      moments, mesh=MESH, in_specs=P(('hosts', 'members')), out_specs=P()))
    expected = jax.vmap(lambda g: gradiv.worker_moments(
      g, 'hosts', batch_size=8, groups=gradiv.by_layer), axis_name='hosts',
      out_axes=None)(means_of_hosts(grads))
    helpers.assert_close(found(grads), expected, 5e-6)
    self.assertTrue(np.isnan(found(spoil(grads, [3])).sq_norm_of_mean).all())

  @pytest.mark.slow
  def test_slices_for_the_optimizer_are_those_of_the_hosts(self):
    grads = sample()
    sliced = optax.chain(
      gradiv.aggregate_by_agreement(1.05, 'hosts', sharded=True, layout=OVER),
      optax.stateless(lambda parts, like: aggregation.gather_leaves(
        parts, like, 'hosts')))
    both = [jax.jit(jax.shard_map(
      lambda g, tx=tx: tx.update(
        jax.tree.map(lambda x: x[0], g), tx.init(grads),
        jax.tree.map(lambda x: x[0], g))[0], mesh=MESH,
      in_specs=P(('hosts', 'members')), out_specs=P(),
      check_vma=False))(grads) for tx in (sliced, AGREEMENT(OVER))]
    helpers.assert_close(both[0], both[1], 5e-6, of_largest=5e-6)


class ProgramTest(parameterized.TestCase):

  def test_a_part_travels_between_hosts(self):
    self.check(AGREEMENT, OVER)

  @parameterized.parameters((KRUM, BY_LAYER), (MEDIAN, OVER))
  @pytest.mark.slow
  def test_by_other_rules_too(self, make, layout):
    self.check(make, layout)

  def check(self, make, layout):
    like = {f'layer_{i}': {'w': np.zeros((8, 300, 301), 'f'),
                           'b': np.zeros((8, 301), 'f')} for i in range(2)}
    mapped, state = step(make(layout), like, check_vma=True)
    size = sum(x[0].size for x in jax.tree.leaves(like))
    sent = {}
    for line in mapped.lower(like, state).compile().as_text().splitlines():
      for name, elements in collectives.collectives(line):
        participants = collectives._group_size(line)
        sent[name, participants] = sent.get((name, participants), 0) + elements
    # A scatter's result and a gather's are those of one device, and of all.
    part = size / MEMBERS
    for kind, expected in {
        ('reduce-scatter', MEMBERS): part, ('all-to-all', HOSTS): part,
        ('all-gather', HOSTS): part, ('all-gather', MEMBERS): size}.items():
      self.assertBetween(sent.pop(kind), expected, 1.01 * expected, kind)
    # Flags and matrices.
    self.assertEqual(set(sent), {('all-reduce', HOSTS * MEMBERS)})
    self.assertLess(sum(sent.values()), 3 * 2 * (HOSTS + 1)**2)

  @pytest.mark.slow
  def test_nothing_that_is_sent_waits_for_flags(self):
    def step(params, state, x):
      return AGREEMENT(OVER).update(
        jax.grad(overlap_test.loss)(params, x), state)

    params = jax.eval_shape(overlap_test.params)
    text = jax.jit(jax.shard_map(
      step, mesh=MESH, in_specs=(P(), P(), P(('hosts', 'members'))),
      out_specs=P(), check_vma=False)).lower(
        params, jax.eval_shape(AGREEMENT(OVER).init, params),
        jnp.ones((32, overlap_test.WIDTH))).compile().as_text()
    for name in ('reduce-scatter', 'all-to-all'):
      waited = waits.products_waited_for(text, name)
      self.assertLessEqual(max(waited), 2 * overlap_test.DEPTH)

  @pytest.mark.slow
  def test_low_rank_sends_thin_matrices_alone_and_at_once(self):
    def step(params, state, x):
      return LOW_RANK(OVER).update(
        jax.grad(overlap_test.loss)(params, x), state)

    params = jax.eval_shape(overlap_test.params)
    text = jax.jit(jax.shard_map(
      step, mesh=MESH, in_specs=(P(), P(), P(('hosts', 'members'))),
      out_specs=P(), check_vma=False)).lower(
        params, jax.eval_shape(LOW_RANK(OVER).init, params),
        jnp.ones((32, overlap_test.WIDTH))).compile().as_text()
    thin = 4 * overlap_test.DEPTH * 2 * overlap_test.WIDTH
    self.assertLess(sum(size for _, size in collectives.collectives(text)),
                    2 * thin)
    waited = waits.products_waited_for(text, 'all-reduce')
    # The last layer's: forward, one product back, and one with Q.
    self.assertLessEqual(min(waited), overlap_test.DEPTH + 2)


if __name__ == '__main__':
  absltest.main()
