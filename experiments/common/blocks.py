"""Blocks: lanes that were trained together, and how a part finds its own.

A part is a folder of blocks. Its lanes are looked up by their coordinates in
all of them, so that a run with more lanes trains only those that are new.
"""

import json
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.engine import records, trainer

# A lane: its coordinates, and what else its numbers depend on.
At = dict[str, Any]


class Block(NamedTuple):
  """Lanes that were trained together, in a folder of their own."""

  folder: pathlib.Path
  lanes: list[At]
  defined_by: dict[str, Any]

  @property
  def is_done(self) -> bool:
    """Whether all its lanes are finished."""
    return (self.folder / 'done.json').exists()


def name(at: At) -> str:
  """Write a lane as text; equal lanes give equal text."""
  return json.dumps(at, sort_keys=True)


def find(folder: pathlib.Path, lanes: Sequence[At], definition: dict[str, Any],
         allow_changed: Collection[str] = ()) -> Iterator[Block]:
  """Yield the blocks of a part that hold some of its lanes.

  Raises:
    OtherRunError: Where such a block is of another definition.
  """
  wanted = set(map(name, lanes))
  for path in sorted(folder.glob('lanes_*/lanes.json')):
    block = Block(path.parent, **records.read_whole(path))
    if wanted & set(map(name, block.lanes)):
      check_definition(block.defined_by, definition, folder, allow_changed)
      yield block


def read(folder: pathlib.Path, lanes: Sequence[At]
         ) -> tuple[list[At], list[dict], dict[str, list]]:
  """Read the records of lanes, all of them finished.

  Returns:
    The lanes in the order of the records; the records, rows of lists [L, ...]
    by name beside their 'step'; what was kept of the final state [L, ...].
  """
  wanted, found, rows, final = set(map(name, lanes)), [], None, {}
  for path in sorted(folder.glob('lanes_*/done.json')):
    more = records.read_whole(path.with_name('lanes.json'))['lanes']
    keep = [i for i, at in enumerate(more) if name(at) in wanted]
    if not keep:
      continue
    wanted -= {name(more[i]) for i in keep}
    found += [more[i] for i in keep]
    picked = [{key: x if key == 'step' else [x[i] for i in keep]
               for key, x in row.items()}
              for row in records.read(path.with_name('metrics.jsonl'))]
    steps = [[row['step'] for row in each] for each in (rows or picked, picked)]
    if steps[0] != steps[1]:
      raise trainer.OtherRunError(
        f'{path.parent} has records at other steps than the blocks beside it: '
        'use another --workdir')
    rows = picked if rows is None else [
      {key: x if key == 'step' else x + after[key] for key, x in row.items()}
      for row, after in zip(rows, picked)]
    for key, x in records.read_whole(path).items():
      final.setdefault(key, []).extend(x[i] for i in keep)
  return found, rows or [], final


def check_definition(stored: Mapping[str, Any], now: Mapping[str, Any],
                     place: pathlib.Path, allow_changed: Collection[str] = ()
                     ) -> None:
  """Raise OtherRunError, with a line for each name, where definitions differ.

  Args:
    stored: By what the results there are defined.
    now: By what they would be now.
    place: Where they lie, for the message.
    allow_changed: Names that may differ.
  """
  changed = [name for name in sorted(stored.keys() | now.keys())
             if stored.get(name) != now.get(name) and name not in allow_changed]
  if changed:
    lines = [f'  {name}: stored {stored.get(name)!r}, now {now.get(name)!r}'
             for name in changed]
    raise trainer.OtherRunError('\n'.join([
      f'{place} is defined by other flags:', *lines,
      'give the flags that are stored, another --workdir, or --allow_changed='
      f'{",".join(changed)} to use what is there']))
