"""What a scan has seen since the last record survives a checkpoint."""

import json

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.engine import left_out, recording
from experiments.engine.schedule import Schedule

SCHEDULE = Schedule(8, 8, scan=2)


def make():
  return recording.Recording(
    None, SCHEDULE, None, None, None, left_out=left_out.LeftOut(0, {}))


class WindowTest(parameterized.TestCase):

  @parameterized.parameters('float64', 'float32', 'bfloat16', 'int32')
  def test_comes_back_to_the_last_bit(self, dtype):
    before, after = make(), make()
    loss = np.asarray([100 / 3, 1e-7], jnp.dtype(dtype))
    before._window = [{'batch_loss': loss}]
    meta = json.loads(json.dumps(before.meta))
    after.begin(2, {}, meta['window'])
    back = after._window[0]['batch_loss']
    self.assertEqual(back.dtype, loss.dtype)
    self.assertEqual(back.tobytes(), loss.tobytes())


if __name__ == '__main__':
  absltest.main()
