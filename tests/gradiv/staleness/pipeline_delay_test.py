"""The delays of the stages of a pipeline."""

import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from gradiv import staleness


class PipelineTest(parameterized.TestCase):

  def test_pipeline_profiles_are_those_of_the_papers(self):
    params = [jnp.zeros(1)] * 4
    stage_of = lambda path: path[0].idx
    profile = lambda **options: [int(s) for s in staleness.delay_updates(
      staleness.pipeline_staleness(stage_of, 4, **options)).init(
        params).staleness]
    self.assertEqual(profile(), [3, 2, 1, 0])
    self.assertEqual(profile(schedule='pipedream_2bw'), [1, 1, 1, 1])
    with self.assertRaisesRegex(ValueError, r'stage_of\[3\]=3'):
      staleness.delay_updates(
        staleness.pipeline_staleness(stage_of, 3)).init(params)

  def test_is_sgd_with_each_stage_on_its_clock(self):
    # Separable quadratics: stage s is delayed SGD with τ = P − 1 − s.
    tx = optax.chain(staleness.delay_updates(staleness.pipeline_staleness(
      lambda path: path[0].idx, 3)), optax.sgd(0.1))
    params = [jnp.ones(()) for _ in range(3)]
    state = tx.init(params)
    for _ in range(10):
      updates, state = tx.update(params, state)
      params = optax.apply_updates(params, updates)
    for stage, x in enumerate(params):
      past, tau = [1.], 2 - stage
      for t in range(10):
        past.append(past[-1] - (0.1 * past[t - tau] if t >= tau else 0))
      np.testing.assert_allclose(x, past[-1], 1e-5)


if __name__ == '__main__':
  absltest.main()
