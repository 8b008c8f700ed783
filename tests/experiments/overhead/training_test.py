"""Every public transformation is timed in a training step, and steps."""

import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments.overhead import chain_table, chains, sizes, training
from gradiv import meshes
from tests.contract.table_test import public_functions

ROWS = {name: row for section in chain_table.SECTIONS.values()
        for name, row in section.items()}


def loss(params, inputs):
  """Compute a loss with kernels, a bias, and two layers."""
  hidden = jnp.tanh(inputs @ params['a']['kernel'] + params['a']['bias'][None])
  return jnp.mean((hidden @ params['b']['kernel']) ** 2)


class ChainsTest(parameterized.TestCase):

  def test_every_transformation_has_a_row(self):
    about = {function for row in (chain_table.PLAIN, *ROWS.values())
             for function in row.about}
    public = public_functions(optax.GradientTransformation)
    del public[meshes.on_mesh]  # its gradients are unreduced, under plain jit
    missing = sorted(public[f] for f in public.keys() - about)
    self.assertEmpty(missing, 'add a row to experiments/overhead/chains.py')

  def test_the_table_leaves_the_devices_to_who_imports_it(self):
    code = ('import jax; from experiments.overhead import chain_table; '
            'jax.config.update("jax_num_cpu_devices", 3); '
            'print(jax.device_count())')
    done = subprocess.run([sys.executable, '-c', code], text=True,
                          capture_output=True, timeout=60)
    self.assertEqual(done.stdout, '3\n', done.stderr)

  def test_names_are_unique(self):
    self.assertLen(ROWS, sum(map(len, chain_table.SECTIONS.values())))

  @parameterized.parameters(*ROWS)
  @pytest.mark.slow
  def test_a_step_keeps_the_shapes_of_what_it_carries(self, name):
    params = {'a': {'kernel': jnp.ones((3, 4)), 'bias': jnp.zeros(4)},
              'b': {'kernel': jnp.ones((4, 2))}}
    begin, mapped = training.mapped_step(ROWS[name], loss, params)
    carried, (value, _) = jax.eval_shape(mapped, *begin, jnp.ones((8, 5, 3)))
    self.assertEqual(value.shape, ())
    jax.tree.map(lambda x, y: self.assertEqual((x.shape, x.dtype),
                                               (y.shape, y.dtype)),
                 carried, jax.eval_shape(lambda: begin))


class TrainingTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_small_table(self):
    small = sizes.resized('transformer', {
      'batch_size': 32, 'width': 8, 'heads': 2, 'layers': 1,
      'input_shape': (4,), 'num_classes': 5})
    with mock.patch.object(training, 'WORKLOAD', small):
      result = training.measure(1, ('`track_moments`', '`mix_by_push_sum`'))
    self.assertEqual(list(result['rows']), [
      'plain', '`track_moments`', '`mix_by_push_sum`'])
    plain, tracked, _ = result['rows'].values()
    self.assertAlmostEqual(tracked['sent'] / plain['sent'], 1, 1)
    self.assertEqual((plain['is_measure'], tracked['is_measure']),
                     (False, True))
    self.assertEqual(result['tokens_per_worker'], 16)
    self.assertRegex(training.table(result), r'plain +[0-9.]+ \(1\.00\)')

  def test_steps_go_on_from_what_they_changed(self):
    params = {'w': jnp.array([3.0, 1.0])}
    row = chains.Row(lambda: optax.chain(
      gradiv.aggregate_by_mean(chains.AXIS), optax.sgd(0.5)))
    begin, mapped = training.mapped_step(
      row, lambda p, x: jnp.vdot(p['w'], x[0]), params)
    batch = jnp.ones((8, 1, 2))
    program = jax.jit(mapped, donate_argnums=(0, 1)).lower(
      *begin, batch).compile()
    step = training.Stepper(program, begin, batch)
    self.assertEqual([float(step()[0]) for _ in range(3)], [4, 3, 2])
    self.assertEqual(params['w'].tolist(), [3, 1])  # not donated


if __name__ == '__main__':
  absltest.main()
