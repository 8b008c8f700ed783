"""Write the page of a run, of two runs, or show one in a terminal.

  python -m experiments.report runs/mine
  python -m experiments.report runs/mine --live
  python -m experiments.report runs/mine --terminal --live
  python -m experiments.report runs/mine runs/other
"""

import argparse
import pathlib
import sys

from experiments.report import reading, writing


class _Parser(argparse.ArgumentParser):
  """Says in one line what is wrong."""

  def error(self, message):
    raise reading.NoReportError(message)


def main(argv: list[str] | None = None) -> None:
  """Parse the arguments and do it; 2 is the exit code of a bad one."""
  try:
    options = _parse(argv)
    if len(options.folders) == 2:
      _compare(options)
    elif options.terminal:
      _terminal(options)
    else:
      _page(options)
  except (reading.NoReportError, OSError) as error:
    print(error, file=sys.stderr)
    raise SystemExit(2) from None
  except KeyboardInterrupt:
    raise SystemExit(130) from None


def _parse(argv):
  parser = _Parser(
    'python -m experiments.report', description='Show a run, or two.')
  parser.add_argument('folders', nargs='+', type=pathlib.Path, metavar='FOLDER',
                      help='of a run; of two, the page says what differs')
  parser.add_argument('--out', type=pathlib.Path, help='where to write the '
                      'page; by default report.html in the folder of the run, '
                      'or compared.html in the first of two')
  parser.add_argument('--live', action='store_true', help='show the run again '
                      'and again until it has ended; the page reloads itself')
  parser.add_argument('--every', type=float, default=5., help='seconds between '
                      'two looks of --live')
  parser.add_argument('--terminal', action='store_true',
                      help='show the run here and write no page')
  options = parser.parse_args(argv)
  if len(options.folders) > 2:
    parser.error(f'{len(options.folders)} folders: must be one or two')
  if len(options.folders) == 2 and (options.live or options.terminal):
    parser.error('--live and --terminal show one run')
  if not options.every >= 0.1:
    parser.error(f'--every={options.every:g}: must be at least 0.1')
  return options


def _page(options):
  folder, = options.folders
  path = options.out or folder / writing.NAME
  make = lambda run, refresh=0.: _pages().of_run(run, refresh)
  if not options.live:
    writing.write(path, make(reading.read(folder)))
    print(path)
    return
  from experiments.report import live
  print(f'{path}: again every {options.every:g} s until the run has ended')

  def show(run):
    writing.write(path, make(run, options.every))

  writing.write(path, make(live.follow(folder, show, options.every)))


def _pages():
  """Import what draws; a bad folder is refused without."""
  from experiments.report import page
  return page


def _compare(options):
  first, second = map(reading.read, options.folders)
  from experiments.report import comparing
  path = options.out or options.folders[0] / 'compared.html'
  writing.write(path, comparing.of_runs(first, second))
  print(path)


def _terminal(options):
  folder, = options.folders
  run = reading.read(folder, may_be_empty=options.live)
  from rich.console import Console

  from experiments.report import live, terminal
  console = Console()
  if not options.live:
    terminal.show(run, console)
    return
  with terminal.watch(console) as shown:
    live.follow(folder, lambda run: shown.update(
      terminal.view(run), refresh=True), options.every)


if __name__ == '__main__':
  main()
