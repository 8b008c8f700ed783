"""The alarm: what it names, how often it errs, what it leaves as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from gradiv.weightings import _evidence, _outliers
from tests.gradiv.weightings import inputs

SIZE = 50
FAULTS = {
  'nothing': lambda g: g,
  'shorter': lambda g: g.at[2].multiply(0.5),
  'longer': lambda g: g.at[2].multiply(2.0),
  'turned': lambda g: g.at[2].multiply(-1.0),
  'zero': lambda g: g.at[2].set(0.0),
  'NaN': lambda g: g.at[2].set(jnp.nan),
  # It points where the mean does, better than anyone.
  'constant': lambda g: g.at[2].set(1.0),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def watch(fault, n, steps, faulty_from=0, jump=2.0):
  """Read the alarm after each step of gradients with a common mean."""
  rule = weightings.with_alarm(weightings.mean(), jump=jump)

  def step(state, at):
    grads = 0.5 + jax.random.normal(
      jax.random.fold_in(jax.random.key(n), at), (n, SIZE))
    grads = jnp.where(at >= faulty_from, FAULTS[fault](grads), grads)
    present = jnp.isfinite(grads).all(1)
    grads = jnp.where(present[:, None], grads, 0)
    _, state = rule.step(grads @ grads.T, present, state, None)
    return state, weightings.read_alarm(state)

  return jax.lax.scan(step, rule.init(n), jnp.arange(steps))[1]


class LastingTest(parameterized.TestCase):

  @parameterized.product(fault=tuple(FAULTS), n=(4, 8))
  def test_names_the_worker_and_no_other(self, fault, n):
    named = np.asarray(watch(fault, n, 60).worker)
    self.assertContainsSubset(named, {-1, 2})
    if fault == 'nothing':
      self.assertEqual(set(named), {-1})
    else:
      self.assertEqual(named[-1], 2)
      # What is the last in each step takes log(12 · 8 · 1e5)/log(1 + 0.7 · 7).
      self.assertLess(np.argmax(named == 2), 24 if n == 4 else 14)

  def test_ends_after_the_fault(self):
    named = np.asarray(watch('shorter', 8, 60).worker)
    self.assertEqual(named[-1], 2)
    rule = weightings.with_alarm(weightings.mean())
    state = rule.init(8)
    step = jax.jit(
      lambda g, s: rule.step(g @ g.T, np.ones(8, bool), s, None)[1])
    rng = np.random.default_rng(0)
    for at in range(200):
      grads = rng.normal(size=(8, SIZE)).astype('f') + .5
      grads[2] *= .5 if at < 50 else 1
      state = step(grads, state)
    self.assertEqual(weightings.read_alarm(state).worker, -1)

  @pytest.mark.slow
  def test_false_alarms_are_as_rare_as_promised(self):
    """Mean steps to the first of healthy workers, in 200 runs from anew."""
    for n in (4, 8, 32):
      for promised in (100., 1000.):
        steps = self._steps_to_alarm(n, promised)
        error = steps.std(ddof=1) / len(steps)**.5
        self.assertGreater(steps.mean() + 4 * error, promised)
        self.assertLess(steps.mean(), 3 * promised)  # and not much rarer

  def _steps_to_alarm(self, n, promised):
    limit = np.log(promised * n)
    shape = _outliers.NUM_SCORES + 1, n

    @jax.jit
    def step(sums, key):
      scores = jax.random.cauchy(key, shape)
      sums = _evidence.update(sums, scores, jnp.ones(shape, bool), limit)
      hit = _evidence.of_workers(sums).max() >= limit
      return jnp.where(hit, -jnp.inf, sums), hit

    hits = jax.lax.scan(step, _evidence.init(*shape), jax.random.split(
      jax.random.key(n), int(400 * promised)))[1]
    return np.diff(np.flatnonzero(hits), prepend=-1)


class EvidenceTest(absltest.TestCase):

  def test_one_step_by_hand(self):
    """Of three, the second is the largest: 1 + 2λ, and 1 − λ for the others."""
    sums = _evidence.update(
      _evidence.init(1, 3), jnp.array([[1., 5., 2.]]), jnp.ones((1, 3), bool),
      100.)
    stakes = _evidence.STAKES
    np.testing.assert_allclose(
      np.exp(sums[0]), np.stack([1 - stakes, 1 + 2 * stakes, 1 - stakes], 1),
      rtol=1e-5)

  def test_equals_share_and_the_absent_are_not_in_the_game(self):
    sums = np.exp(_evidence.update(
      _evidence.init(1, 4), jnp.array([[3., 3., 9., 0.]]),
      jnp.array([[True, True, False, True]]), 100.))[0]
    stakes = _evidence.STAKES
    np.testing.assert_allclose(sums[:, 0], 1 + stakes / 2, rtol=1e-5)
    np.testing.assert_array_equal(sums[:, 0], sums[:, 1])
    np.testing.assert_allclose(sums[:, 2], 1, rtol=1e-5)
    np.testing.assert_allclose(sums[:, 3], 1 - stakes, rtol=1e-5)

  def test_bets_are_fair(self):
    """Factors of all workers add up to n, ties and absences included."""
    scores = jnp.array([[1., 1., 4., 4.], [2., 3., 1., 0.], [0., 0., 0., 0.]])
    takes_part = jnp.array([[True] * 4, [True] * 3 + [False], [True] * 4])
    sums = np.exp(_evidence.update(
      _evidence.init(3, 4), scores, takes_part, 100.))
    np.testing.assert_allclose(sums.sum(-1), 4, rtol=1e-5)


class JumpsTest(parameterized.TestCase):

  def test_a_single_jump_is_counted_and_dated(self):
    def seen(fault, at):
      rule = weightings.with_alarm(weightings.mean())
      state = rule.init(8)
      rng = np.random.default_rng(1)
      step = jax.jit(
        lambda g, s: rule.step(g @ g.T, np.ones(8, bool), s, None)[1])
      for now in range(560):
        grads = rng.normal(size=(8, SIZE)).astype('f') + .5
        grads[3] *= fault if now == at else 1
        state = step(grads, state)
      return weightings.read_alarm(state)

    alarm = seen(100., 550)
    is_third = np.arange(8) == 3
    np.testing.assert_array_equal(alarm.num_jumps, is_third)
    np.testing.assert_array_equal(
      alarm.last_jump, np.where(is_third, 550, -1))
    self.assertEqual(alarm.worker, -1)
    # Without a full window of records there is nothing to compare with.
    self.assertFalse(seen(100., 300).num_jumps.any())

  def test_healthy_workers_jump_seldom(self):
    self.assertFalse(np.asarray(watch('nothing', 8, 4000).num_jumps)[-1].any())
    jumps = np.asarray(watch('nothing', 8, 4000, jump=1.0).num_jumps)[-1].sum()
    self.assertBetween(jumps, 1, 3488 * 4 / 512)


class ReadingTest(absltest.TestCase):

  def test_weights_and_state_are_those_of_the_rule(self):
    rule = weightings.adacons(.9)
    watched = weightings.with_alarm(rule)
    gram = inputs.gram_of(inputs.hard('offset', 5))
    present = np.ones(5, bool)
    expected = rule.step(gram, present, rule.init(5), None)
    weights, state = watched.step(gram, present, watched.init(5), None)
    np.testing.assert_array_equal(weights, expected[0])
    jax.tree.map(np.testing.assert_array_equal, state.then, expected[1])

  def test_extra_rows_are_not_watched(self):
    rule = weightings.with_alarm(weightings.centered_clipping(1.))
    gram = inputs.gram_of(inputs.hard('offset', 6))
    weights, state = rule.step(gram, np.ones(5, bool), rule.init(5), None)
    self.assertLen(weights, 6)
    self.assertLen(state.cosine, 5)

  def test_cosine_and_norm_by_hand(self):
    rows = np.random.default_rng(0).normal(size=(5, 20))
    seen = _outliers.measure(jnp.float32(rows @ rows.T), np.ones(5, bool))
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / norms[:, None]
    others = unit.sum(0) - unit
    expected = (unit * others).sum(1) / np.linalg.norm(others, axis=1)
    np.testing.assert_allclose(seen.cosine, expected, rtol=1e-4)
    np.testing.assert_allclose(seen.norm, norms / np.median(norms), rtol=1e-5)

  def test_by_layer_each_group_has_its_own(self):
    tx = gradiv.aggregate_by_weights(
      weightings.with_alarm(weightings.mean()), 'workers', num_workers=4,
      layout=gradiv.Layout(groups=gradiv.by_layer))
    step = jax.jit(jax.vmap(
      tx.update, (0, None), out_axes=None, axis_name='workers'))
    rng = np.random.default_rng(0)
    draw = lambda: rng.normal(size=(4, 30)).astype('f')
    grads = {'a': {'w': draw()}, 'b': {'w': draw()}}
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    for _ in range(30):
      grads = {'a': {'w': draw()}, 'b': {'w': draw()}}
      grads['b']['w'][1] = 0
      _, state = step(grads, state)
    self.assertEqual(weightings.read_alarm(state).worker.tolist(), [-1, 1])

  def test_bad_arguments_are_named(self):
    mean = weightings.mean()
    for name, value in (('steps_to_false_alarm', 0.5), ('jump', 0.9),
                        ('jump', float('nan'))):
      with self.assertRaisesRegex(ValueError, f'^{name}='):
        weightings.with_alarm(mean, **{name: value})
    with self.assertRaisesRegex(ValueError, '^num_workers=2'):
      weightings.with_alarm(mean).init(2)
    with self.assertRaisesRegex(ValueError, 'opt_state holds 0'):
      weightings.read_alarm(())


class RoundingTest(absltest.TestCase):
  """Of parallel gradients, all cosines are 1, up to rounding."""

  def test_no_bet_is_won_by_rounding(self):
    sums = _evidence.init(1, 4)
    everyone = jnp.ones((1, 4), bool)
    for _ in range(50):
      sums = _evidence.update(
        sums, jnp.float32([[0, 1e-7, 0, 2e-7]]), everyone, 10.)
    np.testing.assert_allclose(sums, np.broadcast_to(sums[..., :1], sums.shape))
    won = _evidence.update(
      sums, jnp.float32([[0, 0, 0, 1e-4]]), everyone, 10.)
    self.assertEqual(int(jnp.argmax(_evidence.of_workers(won))), 3)

  def test_nothing_jumps_by_rounding(self):
    grads = np.outer([1., 2, 3, 1], np.arange(1, 6))
    seen = _outliers.measure(
      jnp.float32(grads @ grads.T), jnp.ones(4, bool))
    scores = jnp.zeros((4, 4)).at[2, 1].set(1e-6)
    jumped, _ = _outliers.find_jumps(
      seen._replace(scores=scores), jnp.full((4, 2), 1e-8), jnp.array(700), 2.)
    self.assertFalse(jumped.any())
    jumped, _ = _outliers.find_jumps(
      seen._replace(scores=1e3 * scores), jnp.full((4, 2), 1e-8),
      jnp.array(700), 2.)
    self.assertEqual(jumped.tolist(), [False, True, False, False])


if __name__ == '__main__':
  absltest.main()
