"""Statistics of examples, for every architecture of the table."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from tests import examples_reference as reference
from tests import examples_zoo as zoo

# One of each kind: dense, convolution, lookup, scan, remat, branch, fallback.
FEW = (
  'dense_on_sequences', 'conv_strided_and_valid',
  'embedding_tied_to_the_logits', 'scan_lstm', 'remat_in_scan',
  'cond_by_the_example', 'weight_normalised')


def few(*others):
  return parameterized.named_parameters(
    (name, zoo.NAMED[name]) for name in (*FEW, *others))


def truth_of(case, loss_fn, params, batch):
  return reference.Truth(*reference.quick_jit(
    lambda p, b: reference.gradients(loss_fn, p, b, case.has_aux)
  )(params, batch), case.tolerance)


class ZooTest(parameterized.TestCase):

  @parameterized.named_parameters((case.name, case) for case in zoo.CASES)
  def test_equals_the_gradient_of_each_example(self, case):
    reference.check(*case.make(), has_aux=case.has_aux,
                    tolerance=case.tolerance)

  @few('auxiliary_outputs', 'weight_decay_in_the_loss')
  def test_in_smaller_batches(self, case):
    loss_fn, params, batch = case.make()
    batch = jax.tree.map(lambda x: np.concatenate([x, x[:1]]), batch)
    for size in (2, 3):
      loss, grads, moments = reference.quick_jit(gradiv.example_moments(
        loss_fn, has_aux=case.has_aux, microbatch_size=size))(params, batch)
      if size == 2:
        truth = truth_of(case, loss_fn, params, batch)
      truth.check_mean_loss(loss)
      truth.check_sum(reference.floating(grads, params), np.full(6, 1 / 6))
      truth.check_moments(moments)


if __name__ == '__main__':
  absltest.main()
