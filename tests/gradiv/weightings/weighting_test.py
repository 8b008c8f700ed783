"""`Weighting` calls its step with the gradients that are present."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings


class WeightingTest(parameterized.TestCase):

  def test_gradients_that_are_not_finite_are_absent(self):
    seen = []

    def weigh(gram, present):
      seen.append((gram, present))
      return jnp.ones(3)

    gram = np.array([[1., np.nan, 2], [np.nan, np.nan, np.nan], [2, 0, 5]])
    weights = weightings.stateless(weigh)(gram)
    self.assertEqual(weights.tolist(), [1, 0, 1])
    self.assertEqual(seen[0][1].tolist(), [True, False, True])
    np.testing.assert_array_equal(
      seen[0][0], [[1, 0, 2], [0, 0, 0], [2, 0, 5]])

  def test_extra_rows_are_always_present(self):
    rule = weightings.stateless(
      lambda gram, present: jnp.arange(1., 4), num_extra=1)
    weights = rule(jnp.eye(3), present=jnp.zeros(2, bool))
    self.assertEqual(weights.tolist(), [0, 0, 3])

  def test_a_function_of_the_matrix_alone_counts_absent_gradients(self):
    alone = lambda gram: jnp.ones(len(gram)) / len(gram)
    told = weightings.stateless(lambda gram, present: weightings.uniform(
      present))
    grads = jnp.array([[3.], [5.], [jnp.nan], [0.]])
    for rule, mean in ((alone, 8 / 4), (told, 8 / 3)):
      tx = gradiv.aggregate_by_weights(rule, 'workers')
      update = jax.vmap(lambda g: tx.update(g, tx.init(g))[0],
                        axis_name='workers', out_axes=None)(grads)
      self.assertAlmostEqual(update.item(), mean, places=5)

  def test_flags_are_given_by_name(self):
    with self.assertRaises(TypeError):
      weightings.Weighting(None, None, True)

  @parameterized.parameters((2, 3), (4,))
  def test_a_gram_matrix_is_square(self, *shape):
    with self.assertRaisesRegex(ValueError, 'gram'):
      weightings.mean()(jnp.ones(shape))

  @parameterized.parameters(weightings.pcgrad, weightings.gradvac)
  def test_rules_that_draw_need_a_key(self, make):
    with self.assertRaisesRegex(ValueError, 'key'):
      make()(jnp.eye(2))


if __name__ == '__main__':
  absltest.main()
