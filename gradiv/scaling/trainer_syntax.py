"""Batch size ramps, as the flags of trainers that people use.

Where each syntax is defined, as of August 2026:

* Megatron-LM: ``--step-batch-size-schedule`` is a field of
  ``megatron/training/config/training_config.py``, read by
  ``megatron/core/num_microbatches_calculator.py``. Thresholds are in tokens,
  sizes in sequences; ``--global-batch-size`` must not be given beside it.
  ``--rampup-batch-size`` (the same files) is deprecated, and ignored since.
* MaxText: ``src/maxtext/configs/base.yml``, read by
  ``src/maxtext/utils/rampup_batch.py``. Sizes are per device; a size is kept
  until at least its share of ``global_rampup_samples`` is seen.
* OLMo-core: ``src/olmo_core/train/callbacks/batch_size_scheduler.py``. Sizes
  and thresholds are in tokens. The callback multiplies the learning rate of
  Adam by the root of the growth by itself.
"""

import itertools
from collections.abc import Sequence

from gradiv._common import checks

SYNTAXES = ('megatron', 'megatron_rampup', 'maxtext', 'olmo_core')


def ramp(
  stages: Sequence[tuple[int, int]],
  syntax: str,
  *,
  sequence_length: int | None = None,
  num_devices: int | None = None,
) -> str:
  """Write a ramp of the batch size in the syntax of a trainer.

  Use it to hand on what a controller did in a small run, or the ``stages`` of a
  `FixedRamp`.

  Args:
    stages: Pairs (examples seen, batch size from there on), in examples, which
      are sequences for these trainers. Examples begin with 0 and do not fall;
      of stages that begin at one place the last counts, and stages that keep
      the size are left out.
    syntax: 'megatron' (``--step-batch-size-schedule``), 'megatron_rampup'
      (``--rampup-batch-size``, of older versions), 'maxtext' or 'olmo_core'.
    sequence_length: Tokens of a sequence, for 'megatron' and 'olmo_core'.
    num_devices: Number of devices, for 'maxtext'.

  Returns:
    Flags for a command line; for OLMo-core, the callback as Python code.

  Raises:
    ValueError: If the syntax cannot say it: 'maxtext' and 'megatron_rampup'
      have equal increments after equally many examples, and 'olmo_core' has
      whole factors between sizes.

  >>> stages = [(0, 16), (1000, 32), (2000, 48)]
  >>> ramp(stages, 'megatron', sequence_length=2048)
  '--step-batch-size-schedule "0:16 2048000:32 4096000:48"'
  >>> ramp(stages, 'megatron_rampup')
  '--rampup-batch-size 16 16 2000 --global-batch-size 48'
  >>> ramp(stages[:2], 'olmo_core', sequence_length=100)
  ... # doctest: +NORMALIZE_WHITESPACE
  'BatchSizeSchedulerCallback(batch_sizes=[1600, 3200],
   schedule=[Duration.tokens(0), Duration.tokens(100000)])'
  """
  checks.choice('syntax', syntax, SYNTAXES)
  starts, sizes = _simplified(stages)
  if syntax in ('megatron', 'olmo_core'):
    checks.count('sequence_length', sequence_length, 1)
    tokens = [start * sequence_length for start in starts]
    if syntax == 'megatron':
      pairs = ' '.join(f'{t}:{size}' for t, size in zip(tokens, sizes))
      return f'--step-batch-size-schedule "{pairs}"'
    return _olmo_core(tokens, [size * sequence_length for size in sizes])
  increment = _increment(starts, sizes, syntax)
  if syntax == 'megatron_rampup':
    return (f'--rampup-batch-size {sizes[0]} {increment} {starts[-1]} '
            f'--global-batch-size {sizes[-1]}')
  checks.count('num_devices', num_devices, 1)
  each = lambda size: f'{size / num_devices:g}'
  return (
    'enable_rampup_batch_size=true '
    f'per_device_batch_size_start={each(sizes[0])} '
    f'per_device_batch_size_increment={each(increment)} '
    f'per_device_batch_size={each(sizes[-1])} '
    f'global_rampup_samples={starts[-1]}')


def _simplified(stages):
  """Check the stages; return their starts and sizes without repetitions."""
  stages = [(start, size) for start, size in stages]
  for start, size in stages:
    checks.count('examples seen', start, 0)
    checks.count('batch size', size, 1)
  starts = [start for start, _ in stages]
  if not stages or starts[0] != 0 or starts != sorted(starts):
    raise ValueError(
      f'stages={stages!r}: must begin with 0 examples, and not fall')
  last = dict(stages)  # of those that begin at one place
  kept = [next(run) for _, run in itertools.groupby(
    last.items(), key=lambda stage: stage[1])]
  return [list(column) for column in zip(*kept)]


def _increment(starts, sizes, syntax):
  """Return the common increment of the sizes, if there is one."""
  increments = {b - a for a, b in itertools.pairwise(sizes)}
  lengths = {b - a for a, b in itertools.pairwise(starts)}
  if len(increments) != 1 or len(lengths) != 1 or min(increments) < 0:
    raise ValueError(
      f'stages={list(zip(starts, sizes))!r}: {syntax} knows rising sizes '
      'alone, with equal increments after equally many examples')
  return increments.pop()


def _olmo_core(tokens, sizes):
  for a, b in itertools.pairwise(sizes):
    if max(a, b) % min(a, b):
      raise ValueError(f'batch sizes of {sizes} tokens: olmo_core asks for '
                       'whole factors between them')
  schedule = ', '.join(f'Duration.tokens({t})' for t in tokens)
  return (f'BatchSizeSchedulerCallback(batch_sizes={sizes}, '
          f'schedule=[{schedule}])')
