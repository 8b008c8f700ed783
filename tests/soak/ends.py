"""Whether two runs ended alike, bit for bit."""

import json
import pathlib
from collections.abc import Iterator

from experiments.engine import leaves
from tests import helpers

# Times, the command and its folder: no two runs have the same.
_OF_ONE_RUN = (
  'timing.jsonl', 'config.json', 'report.html', 'figures.json')


def differences(run: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """List what a run has, lacks, or has otherwise than a whole one.

  All files are compared byte by byte: records, seals, claims, the summary and
  figures; of the checkpoints, the leaves of the newest. Nothing may be left of
  what was cut off.
  """
  ours, theirs = _files(run), _files(whole)
  found = [f'{name} is missing' for name in sorted(theirs.keys() - ours.keys())]
  found += [f'{name} was left behind'
            for name in sorted(ours.keys() - theirs.keys())]
  found += [f'{name} differs' for name in sorted(ours.keys() & theirs.keys())
            if name.name not in _OF_ONE_RUN
            and ours[name].read_bytes() != theirs[name].read_bytes()]
  stores = [sorted(x.relative_to(root) for x in root.rglob('checkpoints'))
            for root in (run, whole)]
  if stores[0] != stores[1]:
    return [*found, f'checkpoints lie in {stores[0]}, not in {stores[1]}']
  for store in stores[0]:
    found += [f'{store}: {x}' for x in _of_states(run / store, whole / store)]
  return found


def _files(root: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
  """Find all files but those of checkpoints, which are read."""
  return {path.relative_to(root): path for path in root.rglob('*')
          if path.is_file() and 'checkpoints' not in path.parts}


def _of_states(ours: pathlib.Path, theirs: pathlib.Path) -> Iterator[str]:
  """Say how the newest checkpoints of two folders differ."""
  for path in ours.iterdir():
    if path.suffix:
      yield f'{path.name} was left behind'
  a, b = (max(x.glob('step_????????')) for x in (ours, theirs))
  if a.name != b.name:
    yield f'the newest is {a.name}, not {b.name}'
    return
  table, other = (json.loads((x / 'tree.json').read_text()) for x in (a, b))
  if table != other:
    yield 'other leaves'
    return
  states = [leaves.read_arrays(x / 'state', table) for x in (a, b)]
  for name in states[0]:
    x, y = (helpers.raw(state[name]) for state in states)
    if x.tobytes() != y.tobytes():
      yield f'{a.name} {name} differs'
