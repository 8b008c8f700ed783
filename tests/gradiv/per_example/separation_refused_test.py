"""Losses over a batch that may mix its examples, and the reasons given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

from tests.gradiv.per_example.separation_test import D, W, X, refusal, xent


def cosine(x):
  x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
  return x @ x.T


# The loss, and the reason that the message must give.
MIXED = {
  'centered': (lambda w, x: jnp.mean((x - x.mean(0)[None])**2),
              'reduce_sum at .*_test.py:.* adds over the examples, and sub '
              'at .*_test.py.* uses the result for each of them'),
  'contrastive': (lambda w, x: xent(cosine(x @ w), jnp.arange(len(x))).mean(),
                  'dot_general at .*_test.py:.*may combine examples'),
  'sum': (lambda w, x: jnp.sum(x @ w),
          'reduce_sum at .* not divided by their number'),
  'sum_and_decay': (lambda w, x: jnp.sum(x @ w) + jnp.sum(w**2),
                    'and add at .* does not grow .* must be a mean'),
  'square_root_of_n': (lambda w, x: jnp.sum(x @ w) / len(x)**0.5,
                       'not divided by their number'),
  'one_fewer': (lambda w, x: jnp.sum(x @ w) / (len(x) - 1),
                'not divided by their number'),
  'root_of_mean': (lambda w, x: jnp.sqrt(jnp.mean((x @ w)**2)),
                   'sqrt at .* is not linear'),
  'log_n': (lambda w, x: jnp.mean(x @ w) + jnp.log(len(x)),
            'log at .* depends on the number of examples'),
  'to_the_nth': (lambda w, x: jnp.mean((x @ w)**len(x)),
                 'integer_pow at .* depends on the number of examples'),
  'cumsum': (lambda w, x: jnp.mean(jnp.cumsum(x @ w, 0)**2),
             'cumsum at .* may mix the examples'),
  'sort': (lambda w, x: jnp.sort(x @ w, 0)[0].mean(),
           'sort at .* may mix the examples'),
  'largest': (lambda w, x: jnp.max(x @ w), 'reduce_max at .* may mix'),
  'masked': (lambda w, x: jnp.sum(x[:, 0] * x[:, 1]) / jnp.sum(x[:, 1]),
             'div at .* divides by the result .*pass mask= to example_mom'),
  'first': (lambda w, x: jnp.mean(x * x[:1]), 'slice at .* may take some'),
  'rolled': (lambda w, x: jnp.mean(x * jnp.roll(x, 1, 0)), 'may take some'),
  'reversed': (lambda w, x: jnp.mean(x * x[::-1]), 'rev at .* may mix'),
  'indexed': (lambda w, x: jnp.mean(jnp.take(
    x, jnp.array([0, 0, 1]), 0, mode='clip')),
              'gather at .* may pick among the examples'),
  'segments': (lambda w, x: jnp.mean(jax.ops.segment_sum(
    x, jnp.int32(x[:, 0]), 3)**2), 'scatter-add at .* may pick among'),
  'place': (lambda w, x: jnp.mean(x[:, 0] * jnp.arange(len(x))),
            'depends on its place in the batch'),
  'head_of_a_table': (lambda w, x: jnp.mean(
    x[:, 0] * jnp.tile(w, (2, 1))[:len(x), 0]),
    'slice at .* depends on its place in the batch'),
  'place_in_a_table': (lambda w, x: jnp.mean(
    x[:, 0] * jnp.tile(w, (2, 1))[jnp.arange(len(x)), 0]),
    'gather at .* depends on its place in the batch'),
  'place_in_a_map': (lambda w, x: jnp.mean(lax.map(
    lambda r: r[0] * jnp.arange(len(x)), x)), 'depends on its place'),
  'place_of_a_mean': (lambda w, x: jnp.mean(jnp.cumsum(jnp.broadcast_to(
    jnp.mean(x), (len(x),)))), 'cumsum at .* depends on its place'),
  'interleaved': (lambda w, x: jnp.mean(jnp.max(
    x.T.reshape(-1, D), 1)), 'reshape at .* may mix'),
  'scan': (lambda w, x: lax.scan(lambda c, x: (jnp.tanh(c + x), None),
                                 jnp.zeros(D), x)[0].mean(),
           'scan at .* goes from one example to the next'),
  'while': (lambda w, x: jnp.mean(lax.while_loop(
    lambda c: jnp.any(c < 3), lambda c: c + 1, x)), 'reduce_or at .* may mix'),
  'cond': (lambda w, x: lax.cond(jnp.mean(x) > 0, lambda: jnp.mean(x @ w),
                                 lambda: 0.), 'gt at .* is not linear'),
  'python_loop': (lambda w, x: sum(jnp.sum(r @ w) for r in x) / len(x),
                  'its program changes with the number'),
  'constant': (lambda w, x: jnp.mean(x * np.linspace(
    0, 1, len(x), dtype=np.float32)[:, None]), 'its own for each example'),
  'common_draw': (lambda w, x: jnp.mean(x * jax.random.bernoulli(
    jax.random.key(0), 0.5, x.shape)), 'draws for all examples from one key'),
  'concatenated': (lambda w, x: jnp.mean(jnp.cumsum(
    jnp.concatenate([x @ w, x]), 1)**2), 'concatenate at .* may mix'),
  'padded': (lambda w, x: jnp.mean(jnp.pad(x, ((1, 1), (0, 0)))**2),
             'pad at .* may mix'),
  'pooled': (lambda w, x: jnp.mean(lax.reduce_window(
    x, -jnp.inf, lax.max, (2, 1), (1, 1), 'SAME')), 'reduce_window_max at'),
  'convolved': (lambda w, x: jnp.mean(lax.conv_general_dilated(
    x.T[:, None], w[:2, None, :2], (1,), 'SAME')),
    'conv_general_dilated at .* may combine examples'),
  'taken': (lambda w, x: jnp.mean(x * lax.dynamic_slice(
    x, (jnp.uint32(w[0, 0] > 0), jnp.uint32(0)), (1, D))),
    'dynamic_slice at .* may take some'),
  'overwritten': (lambda w, x: jnp.mean(lax.dynamic_update_slice(
    x, w[:1], (0, 0))), 'dynamic_update_slice at .* may take some'),
  'products': (lambda w, x: jnp.mean(x) * jnp.mean(x @ w),
               'mul at .* multiplies two such results'),
  'outer_sum': (lambda w, x: jnp.mean(jnp.abs(x[:, None] - x[None])),
                'sub at .* may combine examples'),
  'size_alone': (lambda w, x: jnp.sum(w) * len(x),
                 'depends on the number of examples'),
  'mean_in_a_map': (lambda w, x: jnp.mean(lax.map(
    functools.partial(jnp.multiply, jnp.mean(x)), x)),
    'scan at .* goes from one example to the next'),
  'places_as_numbers': (lambda w, x: jnp.mean(jnp.float32(jnp.concatenate(
    [jnp.arange(len(x))[:, None], jnp.int32(x[:, :1])], 1).reshape(-1))),
    'reshape at .* depends on its place'),
  'late_in_a_loop': (lambda w, x: jnp.tanh(lax.fori_loop(
    0, 3, lambda i, c: (c[1], jnp.mean(x @ w)), (0., 0.))[0]),
    'tanh at .* is not linear'),
  'unknown': (lambda w, x: jnp.mean(jax.pure_callback(
    np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)),
              'pure_callback at .* is not known to keep examples apart'),
}


class RefusedTest(parameterized.TestCase):

  @parameterized.named_parameters(
    (name, *case) for name, case in MIXED.items())
  def test_refused(self, loss_fn, message):
    said = refusal(loss_fn, W, X) or 'accepted'
    self.assertStartsWith(said, 'could not verify that loss_fn')
    self.assertRegex(said, message)

  def test_dropout_with_one_key(self):
    loss = lambda w, x, key: jnp.mean(
      x @ w * jax.random.bernoulli(key, 0.5, x.shape))
    self.assertRegex(refusal(loss, W, X, jax.random.key(0)),
                     r'random_bits at \S*_test.py:\d+ draws for all examples')

  def test_the_line_is_that_of_the_loss(self):
    for loss in (lambda w, x: jnp.mean(jnp.cumsum(x, 0)),
                 lambda w, x: jnp.mean(jnp.cumsum(x, 0))):
      line = loss.__code__.co_firstlineno
      self.assertIn(f'cumsum at separation_refused_test.py:{line} ',
                    refusal(loss, W, X))

  def test_collectives(self):
    loss = lambda w, x: jnp.mean(lax.pmean(x @ w, 'workers'))
    said = []
    jax.vmap(lambda x: said.append(refusal(loss, W, x)) or x,
             axis_name='workers')(X[None])
    self.assertRegex(said[0], r'psum at \S*_test.py:\d+ is a collective')


if __name__ == '__main__':
  absltest.main()
