"""Records also go where they are asked to."""

import importlib.util
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest

from experiments.engine import trainer, writers
from tests.experiments.engine import small


class Listener:
  """A writer of one's own."""

  def __init__(self):
    self.rows, self.is_open = {}, True

  def write_scalars(self, step, scalars):
    self.rows[step] = scalars

  def sync(self):
    pass

  def close(self):
    self.is_open = False


class WritersTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def test_a_writer_of_ones_own_sees_each_record(self):
    seen = Listener()
    small.train(self.folder, options={'writers': [seen]})
    self.assertEqual(list(seen.rows), [0, 4, 8, 12, 16, 20, 24])
    self.assertEqual(set(seen.rows[24]), {'norm', 'batch_loss'})
    self.assertFalse(seen.is_open)

  def test_one_that_cannot_be_closed_leaves_none_open(self):
    broken, whole = Listener(), Listener()
    broken.close = mock.Mock(side_effect=OSError('gone'))
    with self.assertRaisesRegex(OSError, 'gone'):
      writers.Several(broken, [whole]).close()
    self.assertFalse(whole.is_open)

  def test_tensorboard(self):
    if importlib.util.find_spec('tensorboardX') is None:
      self.skipTest('tensorboardX is not installed')
    small.train(self.folder, trainer.Schedule(8, 4),
                options={'writers': ['tensorboard']})
    events, = (self.folder / 'tensorboard').iterdir()
    self.assertIn(b'norm/1', events.read_bytes())

  def test_what_cannot_be_written_is_said_before_training(self):
    with self.assertRaisesRegex(ValueError, "writers='tensorbord': must be"):
      small.train(self.folder, options={'writers': ['tensorbord']})
    with mock.patch.object(writers.importlib.util, 'find_spec',
                           lambda name: None):
      with self.assertRaisesRegex(ValueError, 'pip install wandb'):
        small.train(self.folder, options={'writers': ['wandb']})
    self.assertEmpty(list(self.folder.iterdir()))


if __name__ == '__main__':
  absltest.main()
