"""Arithmetic on trees, in at least float32."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from gradiv._common import trees


class TreesTest(absltest.TestCase):

  def test_norms_and_products_are_summed_in_float32(self):
    # In bfloat16, 256 + 1 is 256.
    tree = {'a': jnp.asarray(np.r_[16., np.ones(255)], jnp.bfloat16),
            'b': jnp.ones(())}
    for total in (trees.sq_norm(tree), trees.dot(tree, tree)):
      self.assertEqual(total, 512)
      self.assertEqual(total.dtype, jnp.float32)
    self.assertEqual(trees.sq_norm(jnp.array([3 + 4j])), 25)
    self.assertEqual(trees.sq_norm({}), 0)

  def test_wide_zeros_of_arrays_and_of_shapes(self):
    tree = {'a': jnp.ones(3, jnp.bfloat16), 'none': None}
    for like in (tree, jax.eval_shape(lambda: tree)):
      zeros = trees.zeros_wide(like)
      self.assertEqual(zeros['a'].dtype, jnp.float32)
      self.assertEqual(zeros['a'].tolist(), [0, 0, 0])

  def test_what_is_dropped_leaves_no_trace(self):
    tree = {'a': jnp.array([1., jnp.nan, jnp.inf])}
    np.testing.assert_array_equal(trees.keep_if(False, tree)['a'], 0)
    np.testing.assert_array_equal(trees.keep_if(True, tree)['a'], tree['a'])

  def test_norms_whose_squares_could_not_be_summed_are_not_usable(self):
    for norm, usable in ((0., True), (6e16, True), (1e17, False),
                         (jnp.inf, False), (jnp.nan, False)):
      self.assertEqual(bool(trees.is_usable(jnp.float32(norm)**2)), usable)

  def test_leaves_must_be_floating(self):
    trees.check_floating({'a': jnp.ones(2, jnp.bfloat16)})
    with self.assertRaisesRegex(ValueError, r"gradient\['a'\]"):
      trees.check_floating({'a': jnp.ones(2, int)})


if __name__ == '__main__':
  absltest.main()
