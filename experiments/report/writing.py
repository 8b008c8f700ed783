"""Write pages whole: whoever reads one meanwhile sees the old one."""

import os
import pathlib
import sys

NAME = 'report.html'


def write(path: pathlib.Path, page: str) -> None:
  """Write a page: whole, or not at all."""
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(page, encoding='utf-8')
  os.replace(partial, path)


def write_at_end(folder: str | os.PathLike) -> None:
  """Write the page of a run that has just ended, and print where it lies.

  Nothing that goes wrong here stops what has been trained.
  """
  # Here, as most that use the engine write no page before its end.
  from experiments.report import page, reading
  path = pathlib.Path(folder) / NAME
  try:
    write(path, page.of_run(reading.read(folder, has_ended=True)))
  except (OSError, reading.NoReportError) as error:
    print(f'no {path}: {error}', file=sys.stderr, flush=True)
  else:
    print(f'report: {path}', file=sys.stderr, flush=True)
