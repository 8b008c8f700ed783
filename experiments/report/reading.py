"""Find the parts of a run, and read what lies in their folders.

A run may still be at work: a file that is not there yet holds nothing.
"""

import dataclasses
import os
import pathlib
import re
import socket
from typing import Any

from experiments.report import lines
from experiments.report.lines import NoReportError as NoReportError

# Folders that hold no records, however many files they have.
_OTHER = {'checkpoints', 'profile', 'tensorboard', 'wandb'}
# A run has one of these; the second is that of a study at work.
_SIGNS = ('metrics.jsonl', 'config.json', 'claims.json')
_OF_A_CLAIM = ('key', 'text', 'measured', 'allowed', 'verdict')
# A paper's parts lie at most this many folders below its own.
_DEPTH = 6


@dataclasses.dataclass(frozen=True)
class Part:
  """Lanes that were trained together.

  Attributes:
    name: Of its folder below that of the run, without that of its lanes.
    rows: Records, each with its 'step'; of many, some.
    timing: Those of `timing.jsonl`.
    lanes: What differs between them; empty where there is one.
    defined_by: All else that the numbers depend on.
    numerics: Commit, versions and device; empty before the first checkpoint.
    advice: The sentence on its batch size; empty where there is none.
    is_done: Whether it has ended.
    seen: When the last record was written, in seconds since 1970.
  """

  name: str
  rows: list[dict[str, Any]]
  timing: list[dict[str, Any]]
  lanes: list[dict[str, Any]]
  defined_by: dict[str, Any]
  numerics: dict[str, Any]
  advice: str
  is_done: bool
  seen: float

  @property
  def step(self) -> int:
    """The step that has been reached."""
    return self.rows[-1]['step'] if self.rows else 0

  @property
  def steps(self) -> int:
    """How many there will be; 0 where that is not known."""
    return self.defined_by.get('steps', self.step if self.is_done else 0)


@dataclasses.dataclass(frozen=True)
class Run:
  """All that a folder holds.

  Attributes:
    folder: Of the run.
    parts: In the order of their names.
    config: `config.json`; empty where there is none.
    story: `claims.json` with its claims; empty where there is none.
    is_running: Whether a process is at work there, as far as can be seen.
  """

  folder: pathlib.Path
  parts: list[Part]
  config: dict[str, Any]
  story: dict[str, Any]
  is_running: bool

  @property
  def name(self) -> str:
    """The name of the folder."""
    return self.folder.resolve().name

  @property
  def claims(self) -> list[dict[str, Any]]:
    """The rows of `claims.json`."""
    return self.story.get('claims', [])

  @property
  def num_parts(self) -> int:
    """How many parts there will be: those that have begun, and the others."""
    begun = {re.sub(r'/lanes_\d+$', '', part.name) for part in self.parts}
    return len(self.parts) + len({*self.config.get('parts', [])} - begun)

  @property
  def seen(self) -> float:
    """When anything was written last."""
    return max((part.seen for part in self.parts), default=0.)


def read(folder: str | os.PathLike, *, may_be_empty: bool = False,
         has_ended: bool = False) -> Run:
  """Read a run.

  Args:
    folder: Its workdir.
    may_be_empty: Whether there may be no record yet.
    has_ended: Whether to know that no process is at work there.

  Raises:
    NoReportError: Where the folder holds no run, no records, or what another
      version wrote.
  """
  folder = pathlib.Path(folder)
  _check_is_run(folder)
  config = lines.read_object(folder / 'config.json', ('flags',))
  story = lines.read_object(folder / 'claims.json', ('claims',))
  for claim in story.get('claims', []):
    lines.check_has(claim, _OF_A_CLAIM, folder / 'claims.json')
    if len(claim['measured']) != 3 or len(claim['allowed']) != 2:
      raise NoReportError(f'{folder}/claims.json was written by another '
                          f'version: claim {claim["key"]} has no interval')
  parts = [_part(folder, path) for path in _find(folder)]
  if not may_be_empty and not story and not any(part.rows for part in parts):
    raise NoReportError(f'{folder} holds no records yet')
  is_running = not has_ended and (
    _is_held(folder / '.lock') if config else
    not all(part.is_done for part in parts))
  return Run(folder, parts, config, story, is_running)


def _check_is_run(folder):
  if not folder.is_dir():
    raise NoReportError(f'{folder} is no folder')
  if _is_run(folder):
    return
  inner = sorted(x.name for x in folder.iterdir() if x.is_dir() and _is_run(x))
  hint = f'; those in it are {", ".join(inner[:8])}' if inner else ''
  raise NoReportError(f'{folder} is not the folder of a run, as it holds '
                      f'none of {", ".join(_SIGNS)}{hint}')


def _is_run(folder):
  return any((folder / x).exists() for x in _SIGNS)


def _is_held(path):
  """Tell whether the process that a lock names is there; see `holding`."""
  try:
    holder = re.match(r'process (\d+) on (.+)', path.read_text())
    if holder and holder[2] == socket.gethostname():
      os.kill(int(holder[1]), 0)
  except (FileNotFoundError, ProcessLookupError):
    return False
  except PermissionError:  # that of another user
    pass
  return True


def _find(folder):
  """Yield the folders below that hold records; not those of the second
  rounding."""
  if (folder / 'metrics.jsonl').exists():
    yield folder
    return
  for path, folders, files in os.walk(folder):
    depth = len(pathlib.Path(path).relative_to(folder).parts)
    folders[:] = sorted(
      x for x in folders if x not in _OTHER and not x.startswith('.')
      and depth < _DEPTH and (depth or x != 'reversed'))
    if 'metrics.jsonl' in files:
      yield pathlib.Path(path)


def _part(folder, path):
  lanes = lines.read_object(path / 'lanes.json', ('lanes', 'defined_by'))
  metas = sorted(path.glob('checkpoints/step_*/meta.json'))
  meta = lines.read_object(metas[-1], ()) if metas else {}
  log = path / 'metrics.jsonl'
  name = path.relative_to(folder)
  if name.name == 'lanes_00' and name.parent.name:
    name = name.parent
  return Part(
    name='' if path == folder else name.as_posix(),
    rows=lines.read(log, lines.MAX_POINTS),
    timing=[row for row in lines.read(path / 'timing.jsonl')
            if row.get('seconds') and row.get('steps_per_second')],
    lanes=lanes.get('lanes', []),
    defined_by=lanes.get('defined_by') or meta.get('config') or {},
    numerics=meta.get('numerics') or {},
    advice=_advice(path / 'advice.json'),
    is_done=any((path / x).exists()
                for x in ('done.json', 'metrics.jsonl.sha256')),
    seen=log.stat().st_mtime)


def _advice(path):
  found = lines.read_object(path, ('sentence',))
  lanes = found.get('lanes', 1)
  one = f'training 1 of {lanes}: ' if lanes > 1 else ''
  return one + found['sentence'] if found else ''
