"""A signal is noted whatever else fails, and the second one ends it all."""

import os
import signal
from unittest import mock

from absl.testing import absltest, parameterized

from experiments.engine import signals


class SignalsTest(parameterized.TestCase):

  @parameterized.parameters(OSError(28, 'No space left on device'),
                            BrokenPipeError(), ValueError('closed'))
  def test_it_is_noted_where_stderr_takes_nothing(self, error):
    stop = signals.Stop()
    with mock.patch.object(os, 'write', side_effect=error):
      stop._handle(signal.SIGTERM, None)
    self.assertEqual(stop.signum, signal.SIGTERM)
    with self.assertRaises(signals.Interrupted) as caught:
      stop.check()
    self.assertEqual(caught.exception.exit_code, 143)

  def test_the_second_signal_ends_a_training_at_once(self):
    stop = signals.Stop()
    with mock.patch.object(os, '_exit') as left, mock.patch.object(os, 'write'):
      stop._handle(signal.SIGTERM, None)
      left.assert_not_called()
      stop._handle(signal.SIGINT, None)
    left.assert_called_once_with(130)

  def test_a_block_that_may_be_left_is_left_at_once(self):
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with self.assertRaisesRegex(
        signals.Interrupted, 'stopped by SIGINT; half of it is kept'
    ) as caught:
      with signals.leaving('half of it is kept'):
        os.kill(os.getpid(), signal.SIGINT)
    self.assertEqual(
      [signal.getsignal(each) for each in signals.SIGNALS], before)
    self.assertTrue(caught.exception.alone)

  def test_the_second_signal_does_not_wait(self):
    with mock.patch.object(os, '_exit') as left:
      with self.assertRaises(signals.Interrupted), signals.leaving('all'):
        try:
          os.kill(os.getpid(), signal.SIGTERM)
        except signals.Interrupted:
          os.kill(os.getpid(), signal.SIGTERM)
          raise
    left.assert_called_once_with(143)


if __name__ == '__main__':
  absltest.main()
