"""The tuner of CHOCO-SGD's consensus step."""

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology


class TuneConsensusStepTest(parameterized.TestCase):

  def test_takes_the_soonest(self):
    # Without compression a step of 1 is W x: the slowest mode falls by 1/3.
    self.assertEqual(decentralized.tune_consensus_step(
      topology.ring(4), 'workers', optax.identity(), np.zeros(50, np.float32),
      key=jax.random.key(2)), 1.0)

  def test_refuses_candidates_that_diverge(self):
    with self.assertRaisesRegex(ValueError, 'candidates.*num_steps=60'):
      decentralized.tune_consensus_step(
        topology.ring(8), 'workers', gradiv.keep_top_k(0.05),
        {'x': np.zeros(60, np.float32)}, key=jax.random.key(1),
        num_steps=60, candidates=(1.0,))

  @parameterized.parameters(
    (dict(candidates=()), 'candidates'), (dict(candidates=(2.,)), 'candidates'),
    (dict(num_steps=0), 'num_steps'), (dict(tolerance=0.), 'tolerance'),
    (dict(key=3), 'key'))
  def test_refuses_bad_arguments(self, changed, message):
    options = dict(key=jax.random.key(2)) | changed
    with self.assertRaisesRegex(ValueError, message):
      decentralized.tune_consensus_step(
        topology.ring(4), 'workers', optax.identity(), np.zeros(1), **options)


if __name__ == '__main__':
  absltest.main()
