"""Steps that depend on the staleness, and correctors, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from gradiv import staleness
from tests import helpers

RNG = np.random.default_rng(21)
TAUS = np.array([0, 1, 2, 3, 8, 9, 100, 12345])


def tree(dtype=jnp.float32):
  draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), dtype)
  return {'kernel': draw(3, 2), 'scale': draw(), 'none': None}


class RulesTest(parameterized.TestCase):

  @parameterized.parameters(1, 8, 40)
  def test_cap(self, n):
    expected = [n / max(n, tau) for tau in TAUS]
    np.testing.assert_allclose(
      staleness.cap_staleness(jnp.asarray(TAUS), n), expected, 1e-6)

  @parameterized.parameters(0.25, 0.01, None)
  def test_late(self, relative_step):
    late = lambda tau: 0 if relative_step is None else min(
      1, 1 / (4 * relative_step * tau))
    expected = [1 if tau <= 8 else late(tau) for tau in TAUS]
    np.testing.assert_allclose(staleness.limit_late_steps(
      jnp.asarray(TAUS), 8, relative_step=relative_step), expected, 1e-6)

  def test_divide(self):
    np.testing.assert_allclose(
      staleness.divide_by_staleness(jnp.asarray(TAUS)),
      1 / np.maximum(TAUS, 1), 1e-6)

  @parameterized.parameters(
    (0., 0., 1., 1), (0., 1., 0.3, 4), (2.5, 0., 1e-3, 3), (7., 1., 0.25, 11),
    (0., 1e-9, 1., 1))
  def test_threshold(self, ratio, variance, accuracy, expected):
    self.assertEqual(
      staleness.ringmaster_threshold(ratio, variance, accuracy), expected)

  def test_arguments(self):
    tau = jnp.int32(1)
    for message, call in (
        ('num_workers=0', lambda: staleness.cap_staleness(tau, 0)),
        ('concurrency=0', lambda: staleness.limit_late_steps(tau, 0)),
        ('relative_step=-1', lambda: staleness.limit_late_steps(
          tau, 2, relative_step=-1)),
        ('noise_ratio=-1', lambda: staleness.ringmaster_threshold(-1, 0, 1)),
        ('variance=-1', lambda: staleness.ringmaster_threshold(0, -1, 1)),
        ('accuracy=0', lambda: staleness.ringmaster_threshold(0, 1, 0))):
      with self.assertRaisesRegex(ValueError, message):
        call()


class ScaleTest(parameterized.TestCase):

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  def test_scales_by_one_number_or_by_leaf(self, dtype):
    tx = staleness.scale_by_staleness(staleness.divide_by_staleness)
    grads = tree(dtype)
    by_leaf = {'kernel': jnp.int32(4), 'scale': jnp.int32(0), 'none': None}
    step = jax.jit(lambda g, s: tx.update(
      g, tx.init(g), staleness=s, unknown=1)[0])
    for given, factors in ((jnp.int32(2), (0.5, 0.5)), (by_leaf, (0.25, 1))):
      scaled = step(grads, given)
      helpers.assert_same(scaled, grads | {
        'kernel': grads['kernel'] * jnp.asarray(factors[0], dtype),
        'scale': grads['scale'] * jnp.asarray(factors[1], dtype)})

  def test_behind_a_profile(self):
    # The staleness of a delay by leaf fits as it is.
    profile = {'kernel': 2, 'scale': 0}
    delay = staleness.delay_updates(lambda path: profile[path[0].key])
    scale = staleness.scale_by_staleness(staleness.divide_by_staleness)
    grads = tree()
    state = delay.init(grads)
    for _ in range(4):
      stale, state = delay.update(grads, state)
    scaled, _ = scale.update(stale, scale.init(grads),
                             staleness=state.staleness)
    helpers.assert_same(scaled, grads | {'kernel': grads['kernel'] / 2})

  def test_needs_the_staleness(self):
    tx = staleness.scale_by_staleness(staleness.divide_by_staleness)
    with self.assertRaisesRegex(ValueError, 'staleness=None'):
      tx.update(tree(), tx.init(tree()))
    with self.assertRaisesRegex(ValueError, 'rule=0.5'):
      staleness.scale_by_staleness(0.5)


class WithStalenessTest(parameterized.TestCase):

  @parameterized.parameters(
    3, staleness.Recorded(np.array([0, 2, 1])),
    lambda path: {'kernel': 2, 'scale': 0}[path[0].key])
  def test_equals_the_two_by_hand(self, model):
    delay = staleness.delay_updates(model)
    inner = optax.chain(
      staleness.scale_by_staleness(staleness.divide_by_staleness),
      optax.sgd(0.1, momentum=0.9))
    tx, grads = staleness.with_staleness(delay, inner), tree()
    state, late, rest = tx.init(grads), delay.init(grads), inner.init(grads)
    for i in range(5):
      scaled = jax.tree.map(lambda g: (i + 1) * g, grads)
      updates, state = jax.jit(tx.update)(scaled, state)
      stale, late = delay.update(scaled, late)
      expected, rest = inner.update(stale, rest, staleness=late.staleness)
      helpers.assert_close(updates, expected, 1e-6)

  def test_refuses_what_knows_no_staleness(self):
    tx = staleness.with_staleness(optax.identity(), optax.sgd(0.1))
    with self.assertRaisesRegex(ValueError, 'delay'):
      tx.init(tree())


class CompensateTest(parameterized.TestCase):

  @parameterized.parameters('squared', 'normalized', 'averaged')
  def test_is_the_formula(self, curvature):
    strength, eps = 0.7, 1e-3
    decay = None if curvature == 'squared' else 0.9
    tx = staleness.compensate_delay(
      strength, curvature=curvature, decay=decay, eps=eps)
    state, nu = tx.init(tree()), {'kernel': 0., 'scale': 0.}
    step = jax.jit(lambda g, s, x, old: tx.update(
      g, s, x, stale_params=old, unknown=1))
    for _ in range(4):
      grads, params, stale = tree(), tree(), tree()
      seen, state = step(grads, state, params, stale)
      for name in nu:
        g, x, old = (np.float64(t[name]) for t in (grads, params, stale))
        nu[name] = 0.9 * nu[name] + 0.1 * g**2
        h = {'squared': g**2, 'normalized': g**2 / np.sqrt(nu[name] + eps),
             'averaged': nu[name]}[curvature]
        np.testing.assert_allclose(
          seen[name], g + strength * h * (x - old), 1e-5, 1e-6)

  def test_is_exact_on_scalar_quadratics(self):
    # λ = h/g²: of f = h x²/2, the gradient where x is, whatever x_τ was.
    for h, x, old in RNG.normal(size=(5, 3)):
      h = abs(h)
      tx = staleness.compensate_delay(h / (h * old)**2)
      g, _ = tx.update(jnp.float32(h * old), tx.init(jnp.float32(x)),
                       jnp.float32(x), stale_params=jnp.float32(old))
      np.testing.assert_allclose(g, h * x, 1e-4)

  def test_with_a_delay_and_a_history(self):
    # Delayed gradient descent on x²/2, with λ = h/g², is that without delay.
    tau, rate = 3, 0.1
    delay = staleness.delay_updates(tau)

    def step(carry, _):
      x, late, past = carry
      past = staleness.history.push(past, x)
      stale, late = delay.update(x, late)
      then = staleness.history.read(past, late.staleness)
      tx = staleness.compensate_delay(1 / jnp.maximum(stale**2, 1e-6))
      g, _ = tx.update(stale, tx.init(x), x, stale_params=then)
      return (x - rate * g, late, past), g

    x = jnp.float32(2.)
    past = staleness.history.init(x, tau + 1)
    _, gs = jax.lax.scan(step, (x, delay.init(x), past), None, length=12)
    expected = 2. * (1 - rate)**np.arange(9)
    np.testing.assert_allclose(gs, np.r_[np.zeros(3), expected], 1e-5)

  def test_keeps_dtypes_and_structure(self):
    params = tree(jnp.bfloat16)
    for curvature, decay in (('squared', None), ('averaged', 0.9)):
      tx = staleness.compensate_delay(1., curvature=curvature, decay=decay)
      start = tx.init(params)
      updates, state = jax.eval_shape(lambda x: tx.update(
        x, start, x, stale_params=x), params)
      spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
      self.assertEqual(spec(updates), spec(params))
      self.assertEqual(spec(state), spec(start))
      self.assertEqual({x.dtype for x in jax.tree.leaves(state)},
                       {jnp.dtype('float32')} if decay else set())

  @parameterized.parameters(
    (dict(strength=-1.), 'strength=-1.0'),
    (dict(curvature='hessian'), "curvature='hessian'"),
    (dict(curvature='averaged'), 'decay=None'),
    (dict(curvature='normalized', decay=1.), 'decay=1.0'),
    (dict(decay=0.9), 'decay=0.9'), (dict(eps=0), 'eps=0'))
  def test_arguments(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      staleness.compensate_delay(**(dict(strength=1.) | options))

  def test_needs_both_params(self):
    tx, x = staleness.compensate_delay(1.), jnp.zeros(())
    with self.assertRaisesRegex(ValueError, 'stale_params'):
      tx.update(x, tx.init(x), x)
    with self.assertRaisesRegex(ValueError, 'params'):
      tx.update(x, tx.init(x), stale_params=x)


class PredictTest(parameterized.TestCase):

  @parameterized.parameters(jnp.float32, jnp.bfloat16)
  def test_is_where_equal_steps_lead(self, dtype):
    params, move = tree(dtype), tree(dtype)
    by_leaf = {'kernel': 3, 'scale': 0, 'none': None}
    for given, taus in ((2, (2, 2)), (by_leaf, (3, 0))):
      seen = staleness.predict_params(params, move, given)
      for name, tau in zip(('kernel', 'scale'), taus):
        self.assertEqual(seen[name].dtype, dtype)
        np.testing.assert_allclose(
          np.float32(seen[name]),
          np.float32(params[name]) + tau * np.float32(move[name]),
          1e-6 if dtype == jnp.float32 else 2**-8, 1e-6)

  def test_undoes_a_delay_of_equal_updates(self):
    # Where updates are all alike, the gradient is taken where it lands.
    tx = optax.chain(staleness.delay_updates(2), optax.scale(-1.))
    x, update = jnp.float32(0.), jnp.float32(0.)
    state, foreseen, landed = tx.init(x), [], []
    for _ in range(8):
      foreseen.append(float(staleness.predict_params(x, update, 2)))
      landed.append(float(x))
      update, state = tx.update(jnp.float32(0.5), state)
      x = optax.apply_updates(x, update)
    self.assertEqual(foreseen[3:-2], landed[5:])


if __name__ == '__main__':
  absltest.main()
