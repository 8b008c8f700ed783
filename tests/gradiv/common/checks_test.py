"""Checks name the argument, and accept values that are still traced."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv._common import checks


class ChecksTest(parameterized.TestCase):

  @parameterized.parameters(
    (checks.positive, (), (1, 2.5, np.float32(3), jnp.bfloat16(1.5),
                           np.array([1., 2.]), jnp.ones(3)),
     (0, -1., np.inf, np.nan, True, 'a', None, 1j, np.array([1., 0.]),
      [1., 2.])),
    (checks.within, (0, 2), (0, 2., np.array([0., 1.])), (-.1, 2.1, np.nan)),
    (checks.between, (0, 2), (.1, np.array([1., 1.9])), (0, 2., np.nan)),
    (checks.fraction, (), (0, .9), (1, -.1, np.nan)),
    (checks.at_least, (1,), (1, np.inf), (.9, np.nan)),
    (checks.count, (1,), (1, np.int32(3)), (0, 1., True, jnp.ones((), int))),
    (checks.choice, (('a', 'b'),), ('a',), ('c', None)),
    (checks.key, (), (jax.random.key(0), jax.random.PRNGKey(0)),
     (None, 0, jnp.ones(2), jax.random.split(jax.random.key(0)))))
  def test_values(self, check, args, fitting, others):
    for value in fitting:
      check('name', value, *args)
    for value in others:
      with self.assertRaisesRegex(ValueError, '^name='):
        check('name', value, *args)

  def test_a_traced_number_passes_and_a_traced_count_does_not(self):
    def traced(x):
      checks.positive('x', x)
      with self.assertRaisesRegex(ValueError, 'x='):
        checks.count('x', x, 1)
      return x

    jax.eval_shape(traced, -1.)

  def test_a_traced_key_passes(self):
    jax.eval_shape(lambda key: checks.key('key', key), jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
