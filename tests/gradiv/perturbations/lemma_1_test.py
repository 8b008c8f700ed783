"""Lemma 1 of Yin et al. 2018 on the gradients of a real network."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments import data, models
from tests import helpers

EXAMPLES = 256


class LemmaTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    arrays = data.load('digits', 'train', data_dir=folder).gather(
      np.arange(EXAMPLES))
    image = np.float32(arrays['image']) / 255
    model = models.build('mlp', input_shape=image.shape[1:], num_classes=10,
                         hidden=(16,))

    def loss(params, image, label):
      return models.cross_entropy(model.apply(params, image), label)

    params = start = model.init(jax.random.key(0))
    step = jax.jit(jax.grad(loss))
    for _ in range(5):
      params = jax.tree.map(lambda w, g: w - 0.2 * g, params,
                            step(params, image, arrays['label']))
    one = lambda x, y: jax.grad(loss)(params, x[None], y[None])
    grads = jax.vmap(one)(jnp.asarray(image), jnp.asarray(arrays['label']))
    cls.moments = jax.vmap(
      lambda g: gradiv.worker_moments(g, 'examples'), axis_name='examples',
      out_axes=None)(grads)
    flatten = lambda tree, *lead: np.concatenate(
      [np.asarray(x, np.float64).reshape(*lead, -1)
       for x in jax.tree.leaves(tree)], -1)
    cls.grads = flatten(grads, EXAMPLES)
    # The reference point w* may be any: the start of the training.
    cls.apart = flatten(params) - flatten(start)

  @parameterized.parameters(8, 64)
  @pytest.mark.slow
  def test_distance_after_a_step(self, batch):
    gamma, rng = 0.1, np.random.default_rng(batch)
    bound = float(gradiv.batch_size_bound(
      gradiv.estimate(self.moments, num_examples=EXAMPLES)))
    mean = self.grads.mean(0)
    second = np.mean(np.sum(self.grads**2, 1))
    delta = (batch - 1) / bound
    predicted = (
      self.apart @ self.apart - 2 * batch * gamma * mean @ self.apart
      + (1 + delta) * batch * gamma**2 * second)
    # ‖w − γ Σ g_i − w*‖² from the Gram matrix and ⟨g_i, w − w*⟩.
    gram, along = self.grads @ self.grads.T, self.grads @ self.apart
    drawn = rng.integers(EXAMPLES, size=(20000, batch))
    counts = np.zeros((len(drawn), EXAMPLES))
    np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
    distances = (
      self.apart @ self.apart - 2 * gamma * counts @ along
      + gamma**2 * np.einsum('ri,ri->r', counts @ gram, counts))
    helpers.assert_mean(distances, predicted)
    self.assertGreater(bound, 1.5)
    self.assertGreater(  # the test sees what batching costs
      delta * batch * gamma**2 * second,
      10 * distances.std() / np.sqrt(len(distances)))

  @pytest.mark.slow
  def test_bound_is_that_of_the_definition(self):
    bound = EXAMPLES * np.sum(self.grads**2) / np.sum(self.grads.sum(0)**2)
    np.testing.assert_allclose(
      gradiv.batch_size_bound(
        gradiv.estimate(self.moments, num_examples=EXAMPLES)), bound, 1e-4)


if __name__ == '__main__':
  absltest.main()
