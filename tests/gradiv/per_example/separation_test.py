"""Losses over a batch that are the mean over its examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax import lax

from gradiv.per_example._separation import check_separate

N, D = 3, 4
RNG = np.random.default_rng(0)
W = jnp.float32(RNG.normal(size=(D, D)))
X = jnp.float32(RNG.normal(size=(N, D)))
Y = jnp.arange(N) % D
TOKENS = jnp.int32(RNG.integers(0, 7, size=(N, 5)))
TABLE = {'embed': jnp.float32(RNG.normal(size=(7, D))), 'w': W,
         'place': jnp.float32(RNG.normal(size=(5, D)))}
KEYS = jax.random.split(jax.random.key(0), N)
xent = optax.softmax_cross_entropy_with_integer_labels


def means_of_means(w, x):
  return jnp.mean(jnp.mean(x @ w, 1)**2) * 0.5 + 0.1 * jnp.sum(w**2)


def flat_tokens(p, tokens):
  n, length = tokens.shape
  flat = p['embed'][tokens].reshape(n * length, D) + jnp.tile(
    p['place'], (n, 1))
  logits = jax.nn.relu(flat @ p['w']) @ p['embed'].T
  return xent(logits, tokens.reshape(-1)).reshape(n, length).mean()


def time_major(p, tokens):
  x = p['embed'][tokens.T]
  flat = jnp.tanh(x.reshape(-1, D) @ p['w'])
  states = lax.scan(
    lambda c, x: (jnp.tanh(c @ p['w'] + x),) * 2,
    jnp.zeros(x.shape[1:]), flat.reshape(x.shape))[1]
  return jnp.mean(states[-1]**2)


def accumulated(w, x):
  rounds = lax.fori_loop(
    0, 3, lambda i, s: s + jnp.sum(jnp.tanh(i * x @ w)), 0.)
  return rounds / x.shape[0]


def picked(w, x):
  logits = x @ w
  rows = jnp.arange(x.shape[0])
  largest = logits[rows, jnp.argmax(logits, 1)]
  return jnp.mean(largest - jnp.take_along_axis(
    logits, jnp.argsort(logits, 1)[:, :1], 1)[:, 0])


def windows(w, x):
  x = x.reshape(-1, 2, 2, 1)
  x = lax.conv_general_dilated(
    x, w.reshape(2, 2, 1, 4), (1, 1), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  largest = lax.reduce_window(
    x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME')
  return jnp.sum(jnp.sort(largest, 2) * jnp.cumsum(x, 3)) / x.shape[0]


def own_noise(w, batch):
  x, keys = batch
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (D,)))(keys)
  return jnp.mean(jnp.where(keep, x @ w, 0.)**2)


def gradient_penalty(w, x):
  energy = jax.checkpoint(lambda x: jnp.sum(jnp.tanh(x @ w)))
  return jnp.mean(jnp.sum(jax.grad(energy)(x)**2, 1))


def written(w, x):
  x = x.at[:, 1].set(0.).at[:, 2:].add(x[:, :2])
  x = jax.vmap(lambda r: r.at[jnp.argmax(r)].multiply(2.))(x)
  return jnp.vdot(lax.dynamic_update_slice(x, x[:, :1], (0, 2)) @ w, x) / len(x)


def branches(w, x):
  root = lax.cond(w[0, 0] > 0, jnp.sin, jnp.cos, jax.nn.gelu(x) @ w)
  loss = lax.switch(jnp.argmax(w[0]), [
    lambda: jnp.mean(root), lambda: -jnp.mean(root), lambda: 0.])
  return loss + lax.while_loop(lambda c: c < 3, lambda c: c + 1, w[0, 0])


def stepped(w, x):
  # Numbers that depend on the batch size, but leave a mean.
  ones = jnp.ones(len(x))
  rows = lax.map(lambda r: jnp.sum(jnp.tanh(r @ w)) / len(x), x)
  return jnp.dot(rows, ones) + jnp.sum(x @ w) / jnp.sum(ones) + (
    len(x)**2 * jnp.mean(x) / len(x)) / len(x)


SEPARATE = {
  'mean': (means_of_means, W, X),
  'labels': (lambda w, b: xent(b[0] @ w, b[1]).mean(), W, (X, Y)),
  'one_hot': (lambda w, b: jnp.mean(optax.softmax_cross_entropy(
    b[0] @ w, jax.nn.one_hot(b[1], D))), W, (X, Y)),
  'flat_tokens': (flat_tokens, TABLE, TOKENS),
  'time_major': (time_major, TABLE, TOKENS),
  'accumulated': (accumulated, W, X),
  'picked': (picked, W, X),
  'windows': (windows, W, X),
  'own_noise': (own_noise, W, (X, KEYS)),
  'common_noise': (lambda w, x: jnp.mean(x @ w * jax.random.normal(
    jax.random.key(0), (1, D))), W, X),
  'gradient_penalty': (gradient_penalty, W, X),
  'written': (written, W, X),
  'branches': (branches, W, X),
  'stepped': (stepped, W, X),
  'einsum': (lambda w, x: jnp.einsum(
    'bi,bj->ij', x, jnp.einsum('bi,ij->bj', x, w)).sum() / len(x), W, X),
  'factored': (lambda w, x: jnp.mean(jnp.linalg.cholesky(
    jnp.eye(D)[None] + (x @ w)[:, :, None] * (x @ w)[:, None])), W, X),
  'bfloat16': (lambda w, x: jnp.sum(jnp.bfloat16(x) @ jnp.bfloat16(w), 1)
               .sum().astype(jnp.float32) / len(x), jnp.ones((4, 4)), X * 0),
  'params_alone': (lambda w, x: jnp.sum(w**2), W, X),
  'mean_in_parts': (lambda w, x: jnp.stack(
    [jnp.mean(x @ w, 0), w[0]])[:, 1:].sum(), W, X),
}


def in_parts(loss_fn, params, batch):
  """Compute a loss of the batch, and the mean over batches of one."""
  one = lambda x: loss_fn(params, jax.tree.map(lambda x: x[None], x))
  return loss_fn(params, batch), jnp.mean(lax.map(one, batch))


def refusal(loss_fn, params, batch, *args):
  try:
    check_separate(loss_fn, params, batch, *args)
  except ValueError as error:
    return str(error)
  return None


class SeparationTest(parameterized.TestCase):

  @parameterized.named_parameters(
    (name, *case) for name, case in SEPARATE.items())
  def test_accepted_losses_are_means_over_the_examples(
      self, loss_fn, params, batch):
    check_separate(loss_fn, params, batch)
    whole, mean = jax.jit(functools.partial(in_parts, loss_fn))(params, batch)
    np.testing.assert_allclose(whole, mean, 1e-5, 1e-6)

  def test_of_a_worker_under_jit(self):
    # The index of the worker, and traced parameters, are common.
    def noisy(w, x):
      key = jax.random.fold_in(jax.random.key(0), lax.axis_index('workers'))
      return jnp.mean(x @ (w + jax.random.normal(key, w.shape)))

    def both(w, x):
      check_separate(noisy, w, x)
      return in_parts(noisy, w, x)

    whole, mean = jax.jit(jax.vmap(both, (None, 0), axis_name='workers'))(
      W, jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(whole, mean, 1e-5)

  def test_one_example_is_checked_as_two(self):
    check_separate(means_of_means, W, X[:1])
    self.assertRegex(refusal(lambda w, x: jnp.sum(x), W, X[:1]),
                     'not divided by their number')

  def test_of_auxiliary_output_the_loss_alone(self):
    check_separate(lambda w, x: (jnp.mean(x @ w), jnp.max(x)), W, X,
                   has_aux=True)
    with self.assertRaisesRegex(ValueError, 'reduce_max'):
      check_separate(lambda w, x: (jnp.max(x @ w), 0.), W, X, has_aux=True)

  @parameterized.parameters(
    (lambda w, x: x @ w, X, r'real scalar, not \[.float32\[3,4\]'),
    (lambda w, x: jnp.int32(0), X, r'real scalar, not \[.int32\[\]'),
    (lambda w, x: jnp.mean(x.reshape(N, 2, 2)), X,
     'a batch of 6 examples in place of 3'),
    (lambda w, x: 0., (X, X[:2]), r'leading axes \[\(2,\), \(3,\)\]'),
    (lambda w, x: 0., (X, 1.), r'leading axes \[\(\), \(3,\)\]'))
  def test_arguments(self, loss_fn, batch, message):
    with self.assertRaisesRegex(ValueError, message):
      check_separate(loss_fn, W, batch)


if __name__ == '__main__':
  absltest.main()
