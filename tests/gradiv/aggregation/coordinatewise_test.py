"""Rules by coordinate, against NumPy on the stacked gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation
from tests import helpers

RNG = np.random.default_rng(8)


def sample(workers):
  """Ties, zeros, both signs, and leaves that n does not divide."""
  draw = lambda *shape: jnp.float32(
    np.round(RNG.normal(0.3, 2, (workers, *shape)), 1))
  return {'a': {'kernel': draw(7, 5), 'bias': draw(3)}, 'large': draw(9, 7333)}


def trimmed(x, count):
  return np.sort(x, 0)[count:len(x) - count].mean(0)


def sand(x, tau, k):
  sign, mean = np.abs(np.sign(x).mean(0)), x.mean(0)
  variance = x.var(0, ddof=1)
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = np.where(variance > 0, (sign - tau) / variance,
                     np.where(sign > tau, np.inf, 0))
  mask = np.maximum(np.tanh(k * ratio), 0)
  return mask * mean, mask


def agreeing(x, tau):
  mask = np.abs(np.sign(x).mean(0)) >= tau - 1e-6
  return mask * x.mean(0), mask


def normalized(rule):
  def leaf(x):
    update, mask = rule(x)
    return update / (1e-10 + mask.mean())
  return leaf


RULES = (
  ('median', gradiv.aggregate_by_median, lambda x: np.median(x, 0)),
  ('trimmed', lambda axis: gradiv.aggregate_by_trimmed_mean(1, axis),
   lambda x: trimmed(x, 1)),
  ('majority', aggregation.aggregate_by_sign_majority,
   lambda x: np.sign(np.sign(x).sum(0))),
  ('agreement', lambda axis: gradiv.aggregate_by_sign_agreement(0.5, axis),
   lambda x: agreeing(x, 0.5)[0]),
  ('agreement_normalized',
   lambda axis: gradiv.aggregate_by_sign_agreement(
     0.5, axis, normalize=True), normalized(lambda x: agreeing(x, 0.5))),
  ('smooth', lambda axis: aggregation.aggregate_by_smooth_sign_agreement(
    0.3, axis, sharpness=2., normalize=False), lambda x: sand(x, 0.3, 2)[0]),
  ('smooth_normalized',
   lambda axis: aggregation.aggregate_by_smooth_sign_agreement(0.3, axis),
   normalized(lambda x: sand(x, 0.3, 1))),
)


# All backends are for the contract; here, that all values meet.
ONE = helpers.ON_ALL[:1]


class NumPyTest(parameterized.TestCase):

  @parameterized.named_parameters(*[
    (f'{name}_{layout[0]}', make, rule, *layout[1:])
    for name, make, rule in RULES for layout in (
      helpers.ON_EACH if name == 'median' else ONE)])
  def test_equals_numpy(self, make, rule, backend, axis, workers):
    self.check(make, rule, backend, axis, workers)

  # They share the exchange of the median.
  @parameterized.named_parameters(*[
    (f'{name}_{layout[0]}', make, rule, *layout[1:])
    for name, make, rule in RULES for layout in (
      helpers.ON_THE_REST if name == 'median' else helpers.ON_ALL[-1:])])
  @pytest.mark.slow
  def test_so_they_do_in_other_layouts(
      self, make, rule, backend, axis, workers):
    self.check(make, rule, backend, axis, workers)

  def check(self, make, rule, backend, axis, workers):
    grads = sample(workers)
    tx = make(axis)
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads,
      tx.init(jax.tree.map(lambda g: g[0], grads)), axis, backend)
    expected = jax.tree.map(
      lambda g: rule(np.asarray(g, np.float64)), grads)
    helpers.assert_close(update, expected, 1e-5, 1e-5)
    self.assertEqual(int(state.count), 1)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_trimmed_mean(-1, 'w'), 'num_trimmed'),
    (lambda: aggregation.aggregate_by_bulyan(-1, 'w'), 'num_byzantine'),
    (lambda: gradiv.aggregate_by_sign_agreement(1.1, 'w'), 'threshold'),
    (lambda: aggregation.aggregate_by_smooth_sign_agreement(-1, 'w'),
     'threshold'),
    (lambda: aggregation.aggregate_by_smooth_sign_agreement(
      0.5, 'w', sharpness=0), 'sharpness'),
    (lambda: gradiv.aggregate_by_median(
      'w', layout=gradiv.Layout(groups=gradiv.by_layer)), 'groups'),
    (lambda: gradiv.aggregate_by_median(''), 'axis_name'),
  )
  def test_arguments_are_checked_at_construction(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_trimmed_mean(2, 'workers'),
     'num_trimmed'),
    (lambda: aggregation.aggregate_by_bulyan(1, 'workers'),
     'num_byzantine'))
  def test_the_number_of_workers_is_checked_while_tracing(self, make, message):
    tx = make()
    with self.assertRaisesRegex(ValueError, message):
      helpers.on_workers(lambda g, s: tx.update(g, s), np.ones((4, 2), 'f'),
                         tx.init(jnp.ones(2)))


if __name__ == '__main__':
  absltest.main()
