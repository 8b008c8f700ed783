"""Blocks: lanes that were trained together, and how a part finds its own.

A part is a folder of blocks. Its lanes are looked up by their coordinates in
all of them, so that a run with more lanes trains only those that are new.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from experiments.engine import identity, records, sealing

# A lane: its coordinates, and what else its numbers depend on.
At = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Block:
  """Lanes that were trained together, in a folder of their own."""

  folder: pathlib.Path
  lanes: list[At]
  defined_by: dict[str, Any]

  @functools.cached_property
  def names(self) -> list[str]:
    """Name its lanes."""
    return list(map(name, self.lanes))

  @property
  def is_done(self) -> bool:
    """Whether all its lanes are finished."""
    return (self.folder / 'done.json').exists()


def name(at: At) -> str:
  """Write a lane as text; equal lanes give equal text."""
  return json.dumps(at, sort_keys=True)


def find(folder: pathlib.Path, wanted: Collection[str],
         definition: dict[str, Any], allow_changed: Collection[str] = ()
         ) -> Iterator[Block]:
  """Yield the blocks of a part that hold some of the lanes of these names.

  Raises:
    OtherRunError: Where such a block is of another definition.
  """
  for block in _all(folder):
    if not set(wanted).isdisjoint(block.names):
      check_definition(block.defined_by, definition, folder, allow_changed)
      yield block


def read(folder: pathlib.Path, wanted: Collection[str]
         ) -> tuple[list[str], list[dict], dict[str, list]]:
  """Read the records of lanes by their names, all of them finished.

  Returns:
    The names in the order of the records; the records, rows of lists [L, ...]
    by name beside their 'step'; what was kept of the final state [L, ...].
  """
  found, rows, final = [], None, {}
  for block, keep in _holding(folder, wanted):
    found += [block.names[i] for i in keep]
    picked = records.read(block.folder / 'metrics.jsonl')
    if len(keep) < len(block.lanes):
      picked = [{key: x if key == 'step' else [x[i] for i in keep]
                 for key, x in row.items()} for row in picked]
    steps = [[row['step'] for row in each] for each in (rows or picked, picked)]
    if steps[0] != steps[1]:
      raise identity.OtherRunError(
        f'{block.folder} has records at other steps than the blocks beside it: '
        'use another --workdir')
    rows = picked if rows is None else list(map(_side_by_side, rows, picked))
    for key, x in records.read_whole(block.folder / 'done.json').items():
      final.setdefault(key, []).extend(x[i] for i in keep)
  return found, rows or [], final


def digest(folder: pathlib.Path, wanted: Sequence[str]) -> str:
  """Hash what `read` reads: lanes, records and final states."""
  found = hashlib.sha256('\n'.join(wanted).encode())
  for block, keep in _holding(folder, wanted):
    found.update(json.dumps(keep).encode())
    found.update((block.folder / 'lanes.json').read_bytes())
    found.update((block.folder / 'done.json').read_bytes())
    found.update(sealing.hash_of(block.folder / 'metrics.jsonl').encode())
  return found.hexdigest()


def _holding(folder, wanted) -> Iterator[tuple[Block, list[int]]]:
  """Yield finished blocks, and where in each the wanted lanes are.

  A lane counts in the first block that holds it.
  """
  wanted = set(wanted)
  for block in _all(folder):
    keep = [i for i, each in enumerate(block.names) if each in wanted]
    if keep and block.is_done:
      wanted.difference_update(block.names)
      yield block, keep


def _all(folder) -> Iterator[Block]:
  """Yield all blocks of a part."""
  for path in sorted(folder.glob('lanes_*/lanes.json')):
    yield _block(path, path.stat().st_mtime_ns)


@functools.lru_cache(256)  # to write the names of thousands of lanes takes long
def _block(path, modified):
  del modified
  return Block(path.parent, **records.read_whole(path))


def _side_by_side(row: dict, more: dict) -> dict:
  """Join the records of some lanes and of more; null where one has none."""
  found, sizes = {'step': row['step']}, [
    len(next((x for key, x in each.items() if key != 'step'), ()))
    for each in (row, more)]
  for key in dict.fromkeys((*row, *more)):
    if key != 'step':
      like = (row.get(key) or more[key])[0]
      one, other = (each.get(key) or [_null_like(like)] * size
                    for each, size in zip((row, more), sizes))
      found[key] = one + other
  return found


def _null_like(x: Any) -> Any:
  return list(map(_null_like, x)) if isinstance(x, list) else None


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
    raise identity.OtherRunError('\n'.join([
      f'{place} is defined by other flags:', *lines,
      'give the flags that are stored, another --workdir, or --allow_changed='
      f'{",".join(changed)} to use what is there']))
