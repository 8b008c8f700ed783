"""Tests of the models of text: against their equations, and of their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from experiments import models

TOKENS = (0, 2, 1, 1, 0, 2)


def build(name, **options):
  """Return a model, and parameters of which none is at its initial zero."""
  model = models.build(
      name, input_shape=(len(TOKENS),), num_classes=3, **options)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32),
      jax.jit(model.init)(jax.random.key(3)))
  return model, params


def assert_reads_only_the_past(model, params):
  """Change the fifth token: the logits before it stay, those after move."""
  tokens = jnp.array(TOKENS)
  apply = jax.jit(model.apply)
  a = apply(params, tokens)
  b = apply(params, tokens.at[4].set((tokens[4] + 1) % 3))
  np.testing.assert_array_equal(a[:4], b[:4])
  assert (jnp.abs(a[4:] - b[4:]).max(axis=1) > 1e-3).all()


class LstmTest(absltest.TestCase):

  def test_reads_only_the_past_and_any_length(self):
    model, params = build('lstm', embed=2, hidden=2)
    assert_reads_only_the_past(model, params)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(
        apply(params, jnp.array(TOKENS[:3])),
        apply(params, jnp.array(TOKENS))[:3], rtol=1e-5, atol=1e-6)

  @pytest.mark.slow
  def test_against_its_equations(self):
    model, params = build('lstm', embed=2, hidden=2)
    layer = params['lstm_0']
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    cell = hidden = np.zeros(2)
    for t, logits in zip(TOKENS, model.apply(params, jnp.array(TOKENS))):
      gates = (dense(layer['input'], params['embed']['embedding'][t])
               + hidden @ layer['recurrent']['kernel'])
      write, forget, read, value = np.split(gates, 4)
      cell = sigmoid(forget + 1) * cell + sigmoid(write) * np.tanh(value)
      hidden = sigmoid(read) * np.tanh(cell)
      np.testing.assert_allclose(
          logits, dense(params['out'], hidden), rtol=1e-5, atol=1e-6)


class TransformerTest(absltest.TestCase):

  def test_reads_only_the_past(self):
    assert_reads_only_the_past(
        *build('transformer', width=4, heads=2, layers=2))

  @pytest.mark.slow
  def test_order_matters(self):
    model, params = build('transformer', width=4, heads=2, layers=1)
    swapped = jnp.array(TOKENS)[jnp.array([1, 0, 2, 3, 4, 5])]
    a, b = (model.apply(params, x)[5] for x in (jnp.array(TOKENS), swapped))
    self.assertGreater(float(jnp.abs(a - b).max()), 1e-3)

  @pytest.mark.slow
  def test_against_its_equations(self):
    model, params = build('transformer', width=4, heads=2, layers=2)
    x = (params['embed']['embedding'][list(TOKENS)]
         + params['positions']['embedding'])
    for layer in (params['layer_0'], params['layer_1']):
      x = x + attend(layer['attention'], norm(layer['norm_0'], x))
      inner = dense(layer['dense_0'], norm(layer['norm_1'], x))
      cubic = np.sqrt(2 / np.pi) * (inner + 0.044715 * inner ** 3)
      x = x + dense(layer['dense_1'], inner / 2 * (1 + np.tanh(cubic)))
    np.testing.assert_allclose(
        model.apply(params, jnp.array(TOKENS)),
        dense(params['out'], norm(params['norm'], x)), rtol=1e-4, atol=1e-5)


def dense(layer, x):
  return x @ layer['kernel'].astype(float) + layer['bias']


def norm(layer, x):
  x = x - x.mean(axis=-1, keepdims=True)
  deviation = np.sqrt((x ** 2).mean(axis=-1, keepdims=True) + 1e-6)
  return x / deviation * layer['scale'] + layer['bias']


def attend(layer, x):
  """Mix the past, one position and one head after the other."""
  query, key, value = np.split(dense(layer['read'], x), 3, axis=-1)
  mixed = np.zeros_like(x)
  for t in range(len(x)):
    for head in (slice(0, 2), slice(2, 4)):
      weights = np.exp(key[:t + 1, head] @ query[t, head] / np.sqrt(2))
      mixed[t, head] = weights @ value[:t + 1, head] / weights.sum()
  return dense(layer['write'], mixed)


if __name__ == '__main__':
  absltest.main()
