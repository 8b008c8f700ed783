"""Write pages whole: whoever reads one meanwhile sees the old one."""

import os
import pathlib
import sys

from experiments.report import lines

NAME = 'report.html'


def write(path: pathlib.Path, page: str) -> None:
  """Write a page: whole, or not at all."""
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(page, encoding='utf-8')
  os.replace(partial, path)


def write_at_end(folder: str | os.PathLike) -> None:
  """Write the page of a run that has just ended, and print where it lies.

  A page that is newer than the run stays as it is. Nothing that goes wrong here
  stops what has been trained.
  """
  path = pathlib.Path(folder) / NAME
  try:
    if not _is_new(path):
      # Here, as most that use the engine write no page before its end.
      from experiments.report import page, reading
      write(path, page.of_run(reading.read(folder, has_ended=True)))
  except (OSError, lines.NoReportError) as error:
    print(f'no {path}: {error}', file=sys.stderr, flush=True)
  else:
    print(f'report: {path}', file=sys.stderr, flush=True)


def _is_new(path):
  """Tell whether a page is younger than all that lies beside it."""
  if not path.exists():
    return False
  when = path.stat().st_mtime_ns
  return all(x.stat().st_mtime_ns <= when for x in path.parent.iterdir()
             if x.suffix in ('.json', '.jsonl', '.sha256'))
