"""States of all rows survive a checkpoint, typed keys included."""

import pathlib
import tempfile

import jax
import orbax.checkpoint as ocp
from absl.testing import absltest

from tests import helpers
from tests.contract import drive, table


class CheckpointTest(absltest.TestCase):

  def test_orbax_round_trip(self):
    # All in one: an error of orbax names the path of the leaf.
    states = {row.name: row.make().init(drive.params()) for row in table.TABLE}
    shapes = jax.eval_shape(lambda: states)
    with (tempfile.TemporaryDirectory() as folder,
          ocp.StandardCheckpointer() as checkpointer):
      path = pathlib.Path(folder, 'states')
      checkpointer.save(path, states)
      checkpointer.wait_until_finished()
      restored = checkpointer.restore(path, shapes)
    helpers.assert_same(restored, states)


if __name__ == '__main__':
  absltest.main()
