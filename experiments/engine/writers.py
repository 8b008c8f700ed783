"""Where records go: JSON lines always, TensorBoard and W&B where asked."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.engine import processes, records, sealing

NAMES = ('tensorboard', 'wandb')


class Writer(Protocol):
  """Takes the records of a run."""

  def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
    """Take the record of a step: numbers, or arrays with one row a lane."""

  def sync(self) -> None:
    """Return when what was written is safe."""

  def close(self) -> None:
    """End the run."""


class JsonLines:
  """Writes `metrics.jsonl`, which all analyses read."""

  def __init__(self, path: pathlib.Path, mark: sealing.Mark | None):
    """Open the file and cut it back to what was there at the checkpoint."""
    self._records = (records.Records(path, keep_through=-1) if mark is None
                     else records.Records(path, mark=mark))

  def write_scalars(self, step, scalars):
    self._records.write(step, **scalars)

  def sync(self):
    self._records.sync()

  def mark(self):
    return self._records.mark()

  def seal(self):
    self._records.seal()

  def close(self):
    self._records.close()


class TensorBoard:
  """Writes events for TensorBoard, by tensorboardX."""

  def __init__(self, workdir: pathlib.Path, first: int):
    """Go on in the folder, and have later steps of an older run hidden."""
    import tensorboardX
    self._writer = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=first + 1 if first else None)

  def write_scalars(self, step, scalars):
    for name, value in flat(scalars):
      self._writer.add_scalar(name, value, step)

  def sync(self):
    self._writer.flush()

  def close(self):
    self._writer.close()


class WeightsAndBiases:
  """Sends records to Weights & Biases; the folder's run goes on."""

  def __init__(self, workdir: pathlib.Path, config: dict[str, Any]):
    """Begin a run, or go on with the one whose name the folder holds."""
    import wandb
    path = workdir / 'wandb_run.txt'
    name = path.read_text() if path.exists() else wandb.util.generate_id()
    path.write_text(name)
    self._run = wandb.init(id=name, resume='allow', dir=str(workdir),
                           config=config)

  def write_scalars(self, step, scalars):
    self._run.log(dict(flat(scalars)), step=step)

  def sync(self):
    pass

  def close(self):
    self._run.finish()


class Several:
  """Hands each record to several writers.

  Attributes:
    lines: The first of them, `JsonLines`; None but in process 0.
  """

  def __init__(self, lines: JsonLines | None, writers: Sequence[Writer] = ()):
    self.lines = lines
    self._writers = [*filter(None, [lines]), *writers]

  def write_scalars(self, step, scalars):
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def sync(self):
    for writer in self._writers:
      writer.sync()

  def close(self):
    with contextlib.ExitStack() as stack:  # closes all, whatever fails
      for writer in reversed(self._writers):
        stack.callback(writer.close)

  def __enter__(self) -> 'Several':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def check(names: Sequence[str | Writer]) -> None:
  """Raise ValueError where a writer is unknown or its package missing."""
  for name in names:
    if not isinstance(name, str):
      continue
    if name not in NAMES:
      raise ValueError(f'writers={name!r}: must be among {NAMES}, or an object '
                       'with write_scalars, sync and close')
    package = {'tensorboard': 'tensorboardX', 'wandb': 'wandb'}[name]
    if importlib.util.find_spec(package) is None:
      raise ValueError(f'writers={name!r}: needs `pip install {package}`')


def build(names: Sequence[str | Writer], workdir: pathlib.Path, first: int,
          mark: sealing.Mark | None, config: dict[str, Any]) -> Several:
  """Open `metrics.jsonl` and the writers that were asked for, in process 0.

  Args:
    names: Among `NAMES`, or objects of one's own.
    workdir: Of the run.
    first: The step that was restored; later records are of a run that ended.
    mark: Of `metrics.jsonl` at that step; None before the first.
    config: Of the run.
  """
  if not processes.is_first():
    return Several(None)
  make = {'tensorboard': lambda: TensorBoard(workdir, first),
          'wandb': lambda: WeightsAndBiases(workdir, config)}
  return Several(JsonLines(workdir / 'metrics.jsonl', mark), [
    make[name]() if isinstance(name, str) else name for name in names])


def flat(scalars: dict[str, Any]) -> Iterator[tuple[str, float]]:
  """Name each number of a record.

  >>> list(flat({'loss': 1.5, 'norm': np.array([1., 2.])}))
  [('loss', 1.5), ('norm/0', 1.0), ('norm/1', 2.0)]
  """
  for name, value in scalars.items():
    value = np.asarray(value)
    for at in np.ndindex(value.shape):
      yield '/'.join([name, *map(str, at)]), float(value[at])
