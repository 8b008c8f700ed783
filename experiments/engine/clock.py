"""How fast a run is, in `timing.jsonl` beside the metrics.

Apart from them, because equal runs must write equal metrics.
"""

import time

import jax

from experiments.engine import records

# Dense products in bfloat16, in FLOP/s, by the start of a device's kind; the
# longer names first. From the data sheets of the makers.
_PEAKS = {
  'NVIDIA H200': 989e12, 'NVIDIA H100 PCIe': 756e12, 'NVIDIA H100': 989e12,
  'NVIDIA A100': 312e12, 'NVIDIA L4': 121e12, 'Tesla V100': 125e12,
  'Tesla T4': 65e12, 'TPU v6 lite': 918e12, 'TPU v5 lite': 197e12,
  'TPU v5': 459e12, 'TPU v4': 275e12, 'TPU v3': 123e12, 'TPU v2': 45e12,
}


def peak_of(device_kind: str) -> float | None:
  """Return the FLOP/s that a kind of device can reach, where it is known.

  >>> peak_of('NVIDIA H100 80GB HBM3')
  989000000000000.0
  """
  return next((peak for name, peak in _PEAKS.items()
               if device_kind.startswith(name)), None)


class Clock:
  """Writes a line at each record: rates since the last line.

  The first line of a process holds the compilation, and says so.

  Attributes:
    examples: Those of a step of all lanes and workers; 0 before `count`.
  """

  def __init__(self, path, first: int):
    """Open the file and cut it back to the step that was restored.

    Args:
      path: Of the file; None writes nothing.
      first: That step.
    """
    self._log = path and records.Records(
      path, keep_through=first if first else -1)
    self._begun = self._last = time.monotonic()
    self._step, self._is_first = first, True
    self._per_step, self.examples = {}, 0

  def count(self, examples: int, flops: int | None, devices: int) -> None:
    """Say what one step costs.

    Args:
      examples: Of all lanes and workers.
      flops: Of the products, on each device; None where that is not known.
      devices: That compute.
    """
    self._per_step, self.examples = {'examples': examples}, examples
    if flops:
      self._per_step['flops'] = flops * devices
      peak = peak_of(jax.devices()[0].device_kind)
      if peak:
        self._per_step['peak_fraction'] = flops / peak

  def tick(self, step: int, *, is_due: bool) -> None:
    """Note that all steps up to `step` are done; write a line where due."""
    if not self._log or not is_due or step == self._step:
      return
    now = time.monotonic()
    rate = (step - self._step) / max(now - self._last, 1e-9)
    named = {name if name == 'peak_fraction' else f'{name}_per_second':
             count * rate for name, count in self._per_step.items()}
    compiles = {'compiles': True} if self._is_first else {}
    self._log.write(step, seconds=now - self._begun, time=round(time.time()),
                    steps_per_second=rate, **named, **compiles)
    self._last, self._step, self._is_first = now, step, False

  def __enter__(self) -> 'Clock':
    return self

  def __exit__(self, *_) -> None:
    if self._log:
      self._log.close()
