"""`config.json`: program, flags, command, versions, devices and parts of a run.

A folder that cannot be written is refused before anything is imported. The file
is written when all flags, data and shapes have been checked, just before the
training: a run that is refused leaves the folder as it was.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from experiments import versions

# What `engine.fit` writes into its folder. A study has these only in the
# folders of its parts.
_OF_A_TRAINING = ('metrics.jsonl', 'checkpoints')

class WorkdirError(Exception):
  """The folder of a run cannot be made, written or read."""


def check_folder(workdir: pathlib.Path, program: str) -> None:
  """Make the folder of a run where it is missing, and try to write there.

  Args:
    workdir: The folder.
    program: Who asks: the name of what runs.

  Raises:
    WorkdirError: Where it cannot be made or written, or holds another run.
  """
  check_owner(workdir, program)
  with _writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass


def check_owner(workdir: pathlib.Path, program: str) -> None:
  """Raise WorkdirError where the folder holds a run that is not the program's.
  """
  if other := _other_run(workdir, program):
    raise WorkdirError(f'--workdir={str(workdir)!r} holds {other}: '
                       'must be a folder of its own')


def _other_run(workdir, program):
  """Say what other run a folder holds; None where there is none."""
  found = [name for name in _OF_A_TRAINING if (workdir / name).exists()]
  if found:
    kind = ('a part of another run' if (workdir / 'lanes.json').exists()
            else 'a run of engine.fit')
    return f'{kind} ({", ".join(found)})'
  try:
    stored = json.loads((workdir / 'config.json').read_text())['program']
  except (OSError, ValueError, KeyError, TypeError):
    return None  # no config.json, or one that does not say
  return None if stored == program else f'a run of {stored}'


@contextlib.contextmanager
def _writing(workdir):
  """Turn what goes wrong with a folder into one line."""
  try:
    yield
  except OSError as error:
    raise WorkdirError(f'--workdir={str(workdir)!r} is no folder that can be '
                       f'written: {error.strerror}') from error


def write(workdir: pathlib.Path, program: str, config: Any,
          argv: Sequence[str], devices: Sequence[str],
          parts: Sequence[str] = ()) -> None:
  """Write `config.json`, whole or not at all.

  Args:
    workdir: The folder of the run.
    program: The name of what runs.
    config: The dataclass of flags.
    argv: The command.
    devices: What computes.
    parts: Names of all parts that are trained, begun or not.

  Raises:
    WorkdirError: Where the folder cannot be written.
  """
  text = json.dumps({
    'program': program,
    'command': list(argv),
    'flags': {f.name: getattr(config, f.name)
              for f in dataclasses.fields(config) if 'help' in f.metadata},
    'commit': versions.commit(),
    'versions': versions.packages(),
    'devices': devices,
    'parts': list(parts)}, indent=1)
  path = workdir / 'config.json'
  partial = path.with_name('.config.json.partial')
  with _writing(workdir):
    partial.write_text(text)
    os.replace(partial, path)
