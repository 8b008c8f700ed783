"""Ramps as flags: each trainer would use the sizes that were meant.

The readers below follow the rules of the trainers' own parsers.
"""

import types

from absl.testing import absltest, parameterized

from gradiv import scaling
from gradiv.scaling import controllers

LENGTH, DEVICES = 512, 4
EQUAL = ((0, 16), (1000, 32), (2000, 48), (3000, 64))
DOUBLING = ((0, 16), (1000, 32), (1500, 64))
SEEN = (0, 999, 1000, 1499, 1500, 1999, 2000, 2999, 3000, 10**6)


def flags_of(text):
  """Split a command line at the flags, without quotes."""
  words = text.replace('"', '').split()
  flags = {}
  for word in words:
    if word.startswith('--'):
      flags[word] = values = []
    else:
      values.append(word)
  return flags


def megatron(text, seen):
  pairs = [map(int, pair.split(':'))
           for pair in flags_of(text)['--step-batch-size-schedule']]
  return [size for start, size in pairs if seen >= start // LENGTH][-1]


def megatron_rampup(text, seen):
  flags = flags_of(text)
  start, increment, samples = map(int, flags['--rampup-batch-size'])
  last, = map(int, flags['--global-batch-size'])
  if seen > samples:
    return last
  steps = (last - start) // increment
  return start + int(seen / (samples / steps)) * increment


def olmo_core(text, seen):
  names = {'BatchSizeSchedulerCallback': dict, 'Duration':
           types.SimpleNamespace(tokens=lambda n: n)}
  found = eval(text, names)
  return [size for size, start in zip(found['batch_sizes'], found['schedule'])
          if seen * LENGTH >= start][-1] // LENGTH


def maxtext_run(text, num_steps):
  """Return the batch sizes of the first steps, and the examples before each."""
  config = dict(pair.split('=') for pair in text.split())
  start, increment, last = (round(DEVICES * float(config[
    f'per_device_batch_size{name}'])) for name in ('_start', '_increment', ''))
  samples = int(config['global_rampup_samples']) / ((last - start) / increment)
  size, seen, since, sizes = start, 0, 0, []
  for _ in range(num_steps):
    sizes.append((seen, size))
    seen, since = seen + size, since + size
    if since >= samples:
      size, since = min(size + increment, last), 0
  return sizes


def planned(stages, seen):
  return [size for start, size in stages if seen >= start][-1]


class SyntaxTest(parameterized.TestCase):

  @parameterized.parameters(
    ('megatron', megatron, EQUAL), ('megatron', megatron, DOUBLING),
    ('megatron_rampup', megatron_rampup, EQUAL),
    ('megatron_rampup', megatron_rampup, DOUBLING[:2]),
    ('olmo_core', olmo_core, DOUBLING))
  def test_says_what_was_meant(self, syntax, read, stages):
    text = scaling.ramp(stages, syntax, sequence_length=LENGTH)
    for seen in SEEN:
      self.assertEqual(read(text, seen), planned(stages, seen), (text, seen))

  @parameterized.parameters((EQUAL,), (DOUBLING[:2],))
  def test_maxtext_is_late_by_part_of_a_batch_for_each_increment(self, stages):
    text = scaling.ramp(stages, 'maxtext', num_devices=DEVICES)
    self.assertStartsWith(text, 'enable_rampup_batch_size=true ')
    late, previous = 0, stages[0][1]
    for seen, size in maxtext_run(text, 200):
      if size != previous:
        late += previous
        previous = size
      self.assertIn(size, (planned(stages, seen),
                           planned(stages, max(seen - late - size, 0))))
    self.assertEqual(size, stages[-1][1])

  def test_fractions_of_an_example_per_device(self):
    text = scaling.ramp(((0, 2), (100, 4)), 'maxtext', num_devices=8)
    self.assertIn('per_device_batch_size_start=0.25 ', text)

  def test_repetitions_are_left_out(self):
    noisy = ((0, 8), (0, 16), (500, 16), (1000, 32), (1200, 32))
    for syntax in ('megatron', 'olmo_core'):
      self.assertEqual(
        scaling.ramp(noisy, syntax, sequence_length=LENGTH),
        scaling.ramp(DOUBLING[:2], syntax, sequence_length=LENGTH))

  def test_of_a_fixed_ramp(self):
    ramp = controllers.FixedRamp(
      ladder=controllers.Ladder(16, 64), starts=(0, 1000, 1500))
    self.assertEqual(ramp.stages, DOUBLING)

  @parameterized.parameters(
    ('syntax', EQUAL, 'torchtitan'), ('stages', (), 'megatron'),
    ('stages', ((5, 16),), 'megatron'),
    ('stages', ((0, 16), (9, 32), (5, 64)), 'megatron'),
    ('batch size', ((0, 16), (9, 0)), 'megatron'),
    ('stages', DOUBLING, 'megatron_rampup'), ('stages', DOUBLING, 'maxtext'),
    ('stages', ((0, 32), (9, 16)), 'maxtext'),
    ('stages', ((0, 32),), 'maxtext'),
    ('whole factors', EQUAL, 'olmo_core'))
  def test_refuses_what_cannot_be_said(self, name, stages, syntax):
    with self.assertRaisesRegex(ValueError, name):
      scaling.ramp(stages, syntax, sequence_length=LENGTH, num_devices=DEVICES)

  @parameterized.parameters(
    ('sequence_length', 'megatron'), ('sequence_length', 'olmo_core'),
    ('num_devices', 'maxtext'))
  def test_asks_for_the_unit(self, name, syntax):
    with self.assertRaisesRegex(ValueError, name):
      scaling.ramp(DOUBLING[:2], syntax)


if __name__ == '__main__':
  absltest.main()
