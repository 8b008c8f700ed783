"""JSON files of a run that may still be at work."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

MAX_POINTS = 160  # of a line in a figure


class NoReportError(Exception):
  """There is nothing to report on; one line says why."""


def read(path: pathlib.Path, most: int | None = None) -> list[dict[str, Any]]:
  """Read JSON lines, but for a last one that is half written.

  Args:
    path: Of the file.
    most: How many to read of each kind, evenly, where there are more: a figure
      shows no more points, and long records take long to read.
  """
  try:
    *whole, rest = path.read_bytes().split(b'\n')
  except FileNotFoundError:
    return []
  rows = []
  for number, line in _some(whole, most):
    try:
      row = json.loads(line)
      rows.append(row | {'step': int(row['step'])})
    except (ValueError, TypeError, KeyError):
      # A power cut may leave a hole in the last line, and its end.
      if number == len(whole) and not rest:
        break
      raise NoReportError(
        f'{path}:{number} is no record of this version') from None
  return rows


def _some(whole, most):
  """Pick lines with their numbers: those that evaluate hold more names."""
  numbered = list(enumerate(whole, 1))
  if most is None or len(whole) <= most:
    return numbered
  kinds: dict[int, list] = {}
  for number, line in numbered:
    kinds.setdefault(line.count(b'": '), []).append((number, line))
  return sorted(pair for pairs in kinds.values()
                for i in spread(len(pairs), most) for pair in [pairs[i]])


def spread(count: int, most: int) -> list[int]:
  """Pick at most `most` of `count` places, evenly, with the first and last.

  >>> spread(5, 3), spread(2, 3)
  ([0, 2, 4], [0, 1])
  """
  if count <= most:
    return list(range(count))
  return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def read_object(path: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
  """Read a JSON object that must have these names; {} where there is none."""
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError:
    raise NoReportError(f'{path} is no JSON') from None
  check_has(value, names, path)
  return value


def check_has(value: Any, names: Sequence[str], path: pathlib.Path) -> None:
  """Raise NoReportError where a value is no object with these names."""
  missing = [x for x in names if not isinstance(value, dict) or x not in value]
  if missing:
    raise NoReportError(f'{path} was written by another version: it lacks '
                        f'{", ".join(missing)}')
