"""Noise on gradients: its moments and its streams."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import workers
from tests import helpers

RNG = np.random.default_rng(10)
KEY = jax.random.key(3)
DRAWS = 4000


def drop(axis_name=None, **options):
  return gradiv.drop_updates(
    0.3, key=KEY, axis_name=axis_name, **options)


def noise(axis_name=None):
  return gradiv.add_langevin_noise(0.5, key=KEY, axis_name=axis_name)


EACH = (('drop', drop), ('noise', noise))


def draws(make, grads, num_steps, backend='vmap'):
  """Updates [steps, workers, ...] of each worker's own draws."""
  tx = make('workers')

  def steps(g):
    return jax.lax.scan(
      lambda s, _: tx.update(g, s)[::-1], tx.init(g), None,
      length=num_steps)[1]

  mapped = gradiv.map_workers(steps, 'workers', backend=backend)
  return np.moveaxis(np.asarray(mapped(grads)), 0, 1)


class MomentsTest(parameterized.TestCase):

  @parameterized.parameters(*workers.BACKENDS)
  def test_means_and_variances(self, backend):
    grads = jnp.float32(RNG.normal(size=(2, 5)))
    for rescale in (False, True):
      seen = draws(lambda axis: drop(axis, rescale=rescale), grads, DRAWS,
                   backend)
      scale = 1 / 0.7 if rescale else 1
      helpers.assert_mean(seen, 0.7 * scale * grads)
      helpers.assert_mean(seen**2, 0.7 * (scale * grads)**2)
    seen = draws(noise, grads, DRAWS, backend)
    helpers.assert_mean(seen, grads)
    helpers.assert_mean((seen - grads[None])**2, np.full((2, 5), 0.25))

  @parameterized.named_parameters(*EACH)
  def test_workers_steps_and_leaves_draw_apart(self, make):
    seen = draws(make, jnp.ones((2, 1000)), 2).reshape(4, 1000)
    np.testing.assert_array_less(
      np.abs(np.corrcoef(seen)[np.triu_indices(4, 1)]), 4.5 / np.sqrt(1000))
    tx = make()
    tree = {'a': jnp.ones(1000), 'b': jnp.ones(1000)}
    update, _ = tx.update(tree, tx.init(tree))
    self.assertLess(abs(np.corrcoef(update['a'], update['b'])[0, 1]), 0.15)

  @parameterized.named_parameters(*EACH)
  def test_without_an_axis_all_workers_draw_alike(self, make):
    tx = make()
    update = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], np.ones((4, 9), 'f'),
      tx.init(jnp.ones(9)), out_axes=0)
    for row in update[1:]:
      np.testing.assert_array_equal(row, update[0])

  @parameterized.named_parameters(*EACH)
  def test_dtypes_stay(self, make):
    tx = make()
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
      tree = {'a': jnp.ones((2, 3), dtype), 'none': None,
              'empty': jnp.ones(0, dtype)}
      update, state = tx.update(tree, tx.init(tree))
      self.assertEqual(update['a'].dtype, dtype)
      self.assertEqual(jax.tree.structure(update), jax.tree.structure(tree))
      self.assertEqual(int(state.count), 1)


class NumbersTest(parameterized.TestCase):

  def test_masks_do_not_hide_what_is_not_finite(self):
    for rescale in (False, True):
      tx = drop(rescale=rescale)
      for bad in (jnp.nan, jnp.inf):
        update, _ = tx.update(jnp.full(50, bad), tx.init(jnp.zeros(50)))
        self.assertFalse(np.isfinite(update).any())

  def test_states_keep_their_dtypes_in_float64(self):
    jax.config.update('jax_enable_x64', True)
    self.addCleanup(jax.config.update, 'jax_enable_x64', False)
    grads = jnp.ones((4, 6, 5), jnp.float64)
    common = (
      drop('workers'), noise('workers'),
      gradiv.quantize_updates(2, key=KEY, axis_name='workers'),
      gradiv.aggregate_by_quantized_mean(8, 'workers', key=KEY),
      gradiv.aggregate_by_low_rank(1, 'workers', key=KEY),
      optax.chain(
        gradiv.aggregate_by_mean('workers'), gradiv.precondition_langevin(
          .1, key=KEY, decay=np.float64(0.9))))
    for dtype in (jnp.float32, jnp.float64):
      rows = grads.astype(dtype)
      for tx in common:
        start = tx.init(rows[0])
        update, state = jax.jit(jax.vmap(
          tx.update, (0, None), (0, None), axis_name='workers'))(rows, start)
        self.assertEqual(update.dtype, dtype)
        spec = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(
          tree)]
        self.assertEqual(spec(state), spec(start))


class LangevinTest(parameterized.TestCase):

  @parameterized.parameters(0.5, 1., 3.)
  def test_samples_at_its_temperature(self, temperature):
    """On ½ k x² the stationary variance is T/(k (1 − γk/2))."""
    rate, k = 0.1, 2.
    tx = optax.chain(
      gradiv.add_langevin_noise(
        gradiv.langevin_stddev(rate, temperature), key=KEY),
      optax.sgd(rate))

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(k * x, state)
      x = optax.apply_updates(x, updates)
      return (x, state), None

    start = jnp.zeros(20_000)
    (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=100)
    helpers.assert_mean(np.asarray(x)**2, temperature / (
      k * (1 - rate * k / 2)))

  def test_samples_with_momentum(self):
    """With the mass of momentum, T/(k (1 − γk/(2 + 2β)))."""
    rate, k, beta, temperature = 0.05, 2., 0.8, 1.5
    tx = optax.chain(
      gradiv.add_langevin_noise(gradiv.langevin_stddev(
        rate, temperature, momentum=beta), key=KEY),
      optax.sgd(rate, momentum=beta))

    def step(carry, _):
      x, state = carry
      updates, state = tx.update(k * x, state)
      return (optax.apply_updates(x, updates), state), None

    start = jnp.zeros(20_000)
    (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, length=300)
    helpers.assert_mean(np.asarray(x)**2, temperature / (
      k * (1 - rate * k / (2 + 2 * beta))))

  def test_noise_of_the_workers_adds_up(self):
    one = gradiv.langevin_stddev(0.1, 2.)
    many = gradiv.langevin_stddev(0.1, 2., num_workers=9)
    self.assertAlmostEqual(many, 3 * one, 6)
    tx = optax.chain(
      gradiv.add_langevin_noise(many, key=KEY, axis_name='workers'),
      gradiv.aggregate_by_mean('workers'))
    zeros = jnp.zeros((9, 20_000))
    noise = helpers.on_workers(
      lambda g, s: tx.update(g, s)[0], zeros, tx.init(zeros[0]))
    helpers.assert_mean(np.asarray(noise)**2, one**2)

  def test_preconditioned(self):
    g, alpha, eps, sigma = jnp.float32([3., -0.5]), 0.9, 0.1, 0.7
    tx = gradiv.precondition_langevin(sigma, key=KEY, decay=alpha, eps=eps)
    state, nu = tx.init(g), np.zeros(2)
    many = lambda x: jnp.broadcast_to(x, (20_000, 2))
    wide = tx.init(many(g))
    for _ in range(2):
      update, wide = tx.update(many(g), wide)
      nu = alpha * nu + (1 - alpha) * np.asarray(g)**2
      scale = 1 / (np.sqrt(nu) + eps)
      helpers.assert_mean(update, scale * np.asarray(g))
      helpers.assert_mean(
        (np.asarray(update) - scale * np.asarray(g))**2, sigma**2 * scale)
    _, state = tx.update(g, state)
    self.assertEqual(state.count, 1)

  def test_schedules(self):
    stddev = gradiv.langevin_stddev(lambda count: 0.5 / (1 + count))
    tx = gradiv.add_langevin_noise(stddev, key=KEY)
    state, found = tx.init(jnp.zeros(20_000)), []
    for _ in range(3):
      update, state = tx.update(jnp.zeros(20_000), state)
      found.append(float(update.std()))
    np.testing.assert_allclose(found, 2 * np.sqrt([1, 2, 3]), 0.03)


class DropConnectTest(parameterized.TestCase):

  def test_mean_of_the_weights_and_bias_of_the_gradient(self):
    """In linear regression it adds the ridge p/(1 − p) x² w."""
    x, w, y, p = (RNG.normal(size=4), RNG.normal(size=4), 0.7, 0.4)
    x, w = jnp.float32(x), jnp.float32(w)
    loss = lambda w, key: (
      x @ gradiv.drop_connect(key, w, p) - y)**2 / 2
    keys = jax.random.split(KEY, 20_000)
    helpers.assert_mean(jax.vmap(
      lambda key: gradiv.drop_connect(key, w, p))(keys), w)
    grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, keys)
    helpers.assert_mean(grads, (x @ w - y) * x + p / (1 - p) * x * x * w)

  def test_mask_chooses_leaves(self):
    params = {'kernel': jnp.ones(100), 'bias': jnp.ones(100)}
    dropped = gradiv.drop_connect(
      KEY, params, 0.5, mask=lambda path: path[-1].key == 'kernel')
    np.testing.assert_array_equal(dropped['bias'], 1)
    self.assertBetween(int((dropped['kernel'] == 0).sum()), 25, 75)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.drop_updates(1., key=KEY), 'rate=1.0: must be from 0 to'),
    (lambda: gradiv.drop_updates(-.1, key=KEY), 'rate=-0.1'),
    (lambda: gradiv.drop_updates(.1, key=KEY, axis_name=''), "axis_name=''"),
    (lambda: gradiv.drop_connect(KEY, jnp.ones(2), 2.), 'rate=2.0'),
    (lambda: gradiv.add_langevin_noise(-1., key=KEY), 'stddev=-1.0'),
    (lambda: gradiv.add_langevin_noise(float('nan'), key=KEY), 'stddev=nan'),
    (lambda: gradiv.langevin_stddev(0.), 'learning_rate=0.0'),
    (lambda: gradiv.langevin_stddev(.1, -1.), 'temperature=-1.0'),
    (lambda: gradiv.langevin_stddev(.1, momentum=1.), 'momentum=1.0'),
    (lambda: gradiv.langevin_stddev(.1, num_workers=0), 'num_workers=0'),
    (lambda: gradiv.precondition_langevin(-1., key=KEY), 'stddev=-1.0'),
    (lambda: gradiv.precondition_langevin(1., key=KEY, eps=0.), 'eps=0.0'),
    (lambda: gradiv.precondition_langevin(1., key=KEY, decay=1.), 'decay=1.0'))
  def test_at_construction(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()


if __name__ == '__main__':
  absltest.main()
