"""Rules by coordinate, against NumPy on the stacked gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

RNG = np.random.default_rng(8)


def sample(workers):
  """Ties, zeros, both signs, and leaves that n does not divide."""
  draw = lambda *shape: jnp.float32(
    np.round(RNG.normal(0.3, 2, (workers, *shape)), 1))
  return {'a': {'kernel': draw(7, 5), 'bias': draw(3)}, 'large': draw(9, 7333)}


def middle_by_krum(x, num_byzantine):
  """Bulyan by its definition, one leaf of one vector."""
  left, chosen = list(range(len(x))), []
  while len(chosen) < len(x) - 2 * num_byzantine:
    rows = x[left]
    squares = ((rows[:, None] - rows[None])**2).sum(-1)
    near = max(len(left) - num_byzantine - 2, 1)
    scores = np.sort(squares, 1)[:, 1:near + 1].sum(1)
    chosen.append(left.pop(int(np.argmin(scores))))
  picked = x[sorted(chosen)]
  gap = np.abs(picked - np.median(picked, 0))
  order = np.argsort(gap, 0, kind='stable')
  beta = max(len(picked) - 2 * num_byzantine, 1)
  return np.take_along_axis(picked, order, 0)[:beta].mean(0)


def trimmed(x, count):
  return np.sort(x, 0)[count:len(x) - count].mean(0)


def sand(x, tau, k):
  sign, mean = np.abs(np.sign(x).mean(0)), x.mean(0)
  variance = x.var(0, ddof=1)
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = np.where(variance > 0, (sign - tau) / variance,
                     np.where(sign > tau, np.inf, 0))
  mask = np.maximum(np.tanh(k * ratio), 0)
  return mask * mean, mask


def agreeing(x, tau):
  mask = np.abs(np.sign(x).mean(0)) >= tau - 1e-6
  return mask * x.mean(0), mask


def normalized(rule):
  def leaf(x):
    update, mask = rule(x)
    return update / (1e-10 + mask.mean())
  return leaf


RULES = (
  ('median', gradiv.aggregate_by_median, lambda x: np.median(x, 0)),
  ('trimmed', lambda axis: gradiv.aggregate_by_trimmed_mean(1, axis),
   lambda x: trimmed(x, 1)),
  ('majority', gradiv.aggregate_by_sign_majority,
   lambda x: np.sign(np.sign(x).sum(0))),
  ('agreement', lambda axis: gradiv.aggregate_by_sign_agreement(0.5, axis),
   lambda x: agreeing(x, 0.5)[0]),
  ('agreement_normalized',
   lambda axis: gradiv.aggregate_by_sign_agreement(
     0.5, axis, normalize=True), normalized(lambda x: agreeing(x, 0.5))),
  ('smooth', lambda axis: gradiv.aggregate_by_smooth_sign_agreement(
    0.3, axis, sharpness=2., normalize=False), lambda x: sand(x, 0.3, 2)[0]),
  ('smooth_normalized',
   lambda axis: gradiv.aggregate_by_smooth_sign_agreement(0.3, axis),
   normalized(lambda x: sand(x, 0.3, 1))),
)


# All backends are for the contract; here, that all values meet.
SOME = [layout for layout in helpers.ON_ALL
        if layout[0] in ('vmap_one_each', 'shard_map_several_each')]


class NumPyTest(parameterized.TestCase):

  @parameterized.named_parameters(*[
    (f'{name}_{layout[0]}', make, rule, *layout[1:])
    for name, make, rule in RULES for layout in (
      helpers.ON_ALL if name == 'median' else SOME)])
  def test_equals_numpy(self, make, rule, backend, axis, workers):
    grads = sample(workers)
    tx = make(axis)
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads,
      tx.init(jax.tree.map(lambda g: g[0], grads)), axis, backend)
    expected = jax.tree.map(
      lambda g: rule(np.asarray(g, np.float64)), grads)
    helpers.assert_close(update, expected, 1e-5, 1e-5)
    self.assertEqual(int(state.count), 1)

  @parameterized.parameters((7, 1), (11, 2), (12, 2), (8, 0))
  def test_bulyan(self, workers, num_byzantine):
    # Without ties: two values as far from the median would be a draw.
    grads = {'a': jnp.float32(RNG.normal(size=(workers, 9, 50)))}
    grads['a'] = grads['a'].at[:num_byzantine].multiply(100)
    tx = gradiv.aggregate_by_bulyan(num_byzantine, 'workers')
    update, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(grads['a'][0]))
    rows = np.asarray(grads['a'], np.float64).reshape(workers, -1)
    np.testing.assert_allclose(
      np.ravel(update['a']), middle_by_krum(rows, num_byzantine), 1e-4, 1e-5)

  @parameterized.parameters(
    (gradiv.aggregate_by_median,),
    (lambda axis: gradiv.aggregate_by_trimmed_mean(2, axis),),
    (lambda axis: gradiv.aggregate_by_bulyan(1, axis),))
  def test_bears_a_minority_of_anything(self, make):
    """The result stays within the range of the honest."""
    honest = RNG.normal(size=(7, 400)).astype('f')
    tx = make('workers')
    for bad in (1e15, -1e15, np.nan, np.inf):
      grads = np.concatenate([honest[:3], np.full((1, 400), bad, 'f'),
                              honest[3:]])
      update, _ = helpers.step_of(tx)(grads, tx.init(grads[0]))
      self.assertTrue((update >= honest.min(0) - 1e-6).all(), bad)
      self.assertTrue((update <= honest.max(0) + 1e-6).all(), bad)


class SignDropoutTest(parameterized.TestCase):

  def test_is_one_sign_at_a_time_in_its_share(self):
    rows = np.random.default_rng(0).normal(size=(4, 60)).astype('f')
    rows[:, 0] = np.abs(rows[:, 0])
    rows[:, 1] = 0
    tx = gradiv.aggregate_by_sign_dropout('workers', key=jax.random.key(1))
    step = helpers.step_of(tx)
    state, seen = tx.init(rows[0]), []
    for _ in range(600):
      update, state = step(rows, state)
      seen.append(np.asarray(update))
    seen = np.stack(seen)
    up, down = np.maximum(rows, 0).sum(0), np.minimum(rows, 0).sum(0)
    near = lambda x: np.isclose(seen, x, 1e-5, 1e-6)
    self.assertTrue((near(up) | near(down)).all())
    share = (1 + rows.sum(0) / np.where(
      rows.any(0), np.abs(rows).sum(0), 1)) / 2
    drawn = (near(up) & (up != 0)).mean(0)
    sure = (up == 0) | (down == 0)
    np.testing.assert_array_equal(drawn[sure], (up > 0)[sure])
    # Where both are drawn often enough for the errors to be normal.
    open_ = (share > 0.05) & (share < 0.95) & ~sure
    error = np.sqrt(share * (1 - share) / 600)
    self.assertLess(np.max(np.abs(drawn - share)[open_] / error[open_]), 4.5)
    helpers.assert_mean(
      seen[:, open_], (share * up + (1 - share) * down)[open_])

  def test_workers_and_steps_draw_apart(self):
    grads = np.tile(np.float32([[1.], [-1.]]), (1, 1000))
    tx = gradiv.aggregate_by_sign_dropout('workers', key=jax.random.key(1))
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(grads[0]))
    halves = np.asarray(update)[:500], np.asarray(update)[500:]
    self.assertLess(abs(np.mean(halves[0] * halves[1])), 0.2)
    again, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, state)
    self.assertLess(abs(np.mean(np.asarray(update) * again)), 0.2)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_trimmed_mean(-1, 'w'), 'num_trimmed=-1'),
    (lambda: gradiv.aggregate_by_bulyan(-1, 'w'), 'num_byzantine=-1'),
    (lambda: gradiv.aggregate_by_sign_agreement(1.1, 'w'), 'threshold=1.1'),
    (lambda: gradiv.aggregate_by_smooth_sign_agreement(-1, 'w'),
     'threshold=-1'),
    (lambda: gradiv.aggregate_by_smooth_sign_agreement(
      0.5, 'w', sharpness=0), 'sharpness=0'),
    (lambda: gradiv.aggregate_by_median('w', groups=gradiv.by_layer),
     'groups=.*must be among'),
    (lambda: gradiv.aggregate_by_median(''), 'axis_name'),
  )
  def test_at_construction(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_trimmed_mean(2, 'workers'),
     'num_trimmed=2.*half of the 4'),
    (lambda: gradiv.aggregate_by_bulyan(1, 'workers'),
     'num_byzantine=1: 4 workers, must be at least 7'))
  def test_for_the_workers_at_hand(self, make, message):
    tx = make()
    with self.assertRaisesRegex(ValueError, message):
      helpers.on_workers(lambda g, s: tx.update(g, s), np.ones((4, 2), 'f'),
                         tx.init(jnp.ones(2)))


class ProtocolTest(parameterized.TestCase):
  """optax's leading axis, and its `process`."""

  def setUp(self):
    super().setUp()
    try:
      from optax.experimental import aggregating
    except ImportError:
      self.skipTest('optax is older than 0.2.7')
    self.aggregating = aggregating

  def test_a_leading_axis(self):
    grads = sample(6)
    tx = gradiv.as_aggregator(gradiv.aggregate_by_median('rows'), 'rows')
    self.assertIsInstance(tx, self.aggregating.Aggregator)
    update, _ = jax.jit(tx.update)(
      grads, tx.init(jax.tree.map(lambda g: g[0], grads)))
    helpers.assert_close(update, jax.tree.map(
      lambda g: np.median(g, 0), grads), 1e-6, 1e-6)

  def test_two_leading_axes(self):
    grads = np.float32(RNG.normal(size=(2, 3, 5)))
    tx = gradiv.as_aggregator(
      gradiv.aggregate_by_mean(('a', 'b')), ('a', 'b'))
    update, _ = tx.update(grads, tx.init(grads[0, 0]))
    np.testing.assert_allclose(update, grads.mean((0, 1)), 1e-5, 1e-6)

  def test_in_process_a_step_without_agreement_is_none(self):
    aggregator = gradiv.as_aggregator(
      gradiv.aggregate_by_agreement(0.5, 'rows'), 'rows')
    tx = self.aggregating.process(
      optax.identity(), aggregator, optax.sgd(1., momentum=0.9))
    params = jnp.zeros(2)
    state, moved = tx.init(params), []
    for rows in ([[1., 0], [1, .1]], [[1., 0], [-1, 0]], [[1., 0], [1, .1]]):
      updates, state = tx.update(jnp.float32(rows), state, params)
      moved.append(float(jnp.abs(updates).sum()) > 0)
    self.assertEqual(moved, [True, False, True])


if __name__ == '__main__':
  absltest.main()
