"""Krum, against its definition on the gradients themselves."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import krum
from tests.gradiv.weightings import inputs, rules


def krum_scores(x, k, power):
  return (np.sort(inputs.distances(x), 1)[:, 1:k + 1] ** power).sum(1)


def krum_with(f, m, k, power):
  return krum(f, m, num_neighbors=k, power=power)


class KrumTest(parameterized.TestCase):

  @parameterized.product(n=(3, 5, 16), setting=((0, 1, 2), (2, 3, 1)))
  def test_definition(self, n, setting):
    f, m, power = setting
    f = min(f, n - 3)
    for kind in inputs.KINDS:
      with self.subTest(kind):
        x = inputs.hard(kind, n)
        gram = inputs.gram_of(x, centered=kind == 'duplicates')
        w = np.asarray(rules.compiled(krum_with, f, m, None, power)(gram))
        self.assertEqual(sorted(w)[-m:], [np.float32(1 / m)] * m)
        scores = krum_scores(x, n - f - 2, power)
        best = np.argsort(scores, kind='stable')
        np.testing.assert_allclose(  # Ties may go either way after rounding.
          scores[w > 0].sum(), scores[best[:m]].sum(), 1e-3, 1e-9)
        if m == n or scores[best[m]] > 1.01 * scores[best[m - 1]]:
          self.assertCountEqual(np.flatnonzero(w), best[:m])

  def test_value_that_torchjd_publishes(self):
    x = np.array([[1., 1, 1], [1, 0, 1], [75, -666, 23], [1, 2, 3], [2, 0, 1]])
    w = rules.compiled(krum_with, 1, 4, None, 1)(inputs.gram_of(x))
    self.assertEqual(w.tolist(), [.25, .25, 0, .25, .25])
    np.testing.assert_allclose(w @ x, [1.25, .75, 1.5])

  def test_power_and_neighbors_change_the_choice(self):
    x = np.array([[3.], [8], [5], [-7], [-9], [7]])
    choices = set()
    for k, power in ((1, 2), (4, 1), (4, 6)):
      w = rules.compiled(krum_with, 0, 1, k, power)(inputs.gram_of(x))
      self.assertEqual(int(w.argmax()), krum_scores(x, k, power).argmin())
      choices.add(int(w.argmax()))
    self.assertLen(choices, 3)

  def test_ties_go_to_the_lowest_index(self):
    x = np.array([[9.], [1.], [0.], [5.]])  # 1 and 2 are mutually nearest.
    self.assertEqual(
      rules.weigh('krum', inputs.gram_of(x)).tolist(), [0, 1, 0, 0])
    same = np.ones((5, 5), np.float32)
    self.assertEqual(
      rules.weigh('multi_krum', same).tolist(), [.5, .5, 0, 0, 0])

  @parameterized.parameters(
    (krum(1), 4), (krum(0, 3), 3), (krum(0, num_neighbors=3), 4))
  def test_too_few_present_give_zeros(self, rule, least):
    gram = inputs.gram_of(inputs.hard('random', 5))
    weigh = jax.jit(rule.__call__)
    for given in range(6):
      w = weigh(gram, present=np.arange(5) < given)
      self.assertAlmostEqual(float(w.sum()), given >= least, 5)

  @parameterized.product(name=('krum', 'geometric_median'), n=(5, 16),
                         size=(1e2, 1e8, 1e12), apart=(True, False))
  def test_a_minority_cannot_move_it_far(self, name, n, size, apart):
    f = (n - 3) // 2
    x = inputs.hard('offset', n)
    far = np.random.default_rng(1).normal(size=x.shape)
    x[:f] = size * (far if apart else far[:1])[:f]
    w = (rules.compiled(krum, f)(inputs.gram_of(x)) if name == 'krum'
         else rules.weigh(name, inputs.gram_of(x)))
    honest = x[f:] - x[f:].mean(0)
    shift = np.linalg.norm(np.float64(w) @ x - x[f:].mean(0))
    bound = 2 * (n - f) / (n - 2 * f) * np.linalg.norm(honest, axis=1).max()
    self.assertLess(shift, bound)
    self.assertGreater(np.linalg.norm(x.mean(0) - x[f:].mean(0)), bound)

  @parameterized.parameters(
    (lambda: krum(-1), 'num_byzantine'),
    (lambda: krum(1.5), 'num_byzantine'),
    (lambda: krum(1, 0), 'num_selected'),
    (lambda: krum(1, num_neighbors=0), 'num_neighbors'),
    (lambda: krum(1, power=0), 'power'),
    (lambda: krum(2)(jnp.eye(4)), 'num_byzantine=2.*n=4.*5'),
    (lambda: krum(0, 5)(jnp.eye(4)), 'num_selected=5.*5'),
    (lambda: krum(0, num_neighbors=4)(jnp.eye(4)), 'num_neighbors=4.*5'))
  def test_bad_arguments_are_named(self, call, argument):
    with self.assertRaisesRegex(ValueError, argument):
      call()


if __name__ == '__main__':
  absltest.main()
