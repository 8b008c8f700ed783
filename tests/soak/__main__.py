"""Runs the soak; see `tests.soak`."""

import argparse
import functools
import pathlib
import random
import secrets
import shutil
import sys
import tempfile

from tests import conftest  # noqa: F401 (compiles as the tests do)
from tests.soak.binaries import BINARIES
from tests.soak.killed import Lost, Soak


def main(argv: list[str]) -> int:
  """Kill the chosen papers; return 1 where one of them lost something."""
  parser = argparse.ArgumentParser(
    prog='python -m tests.soak', description=__doc__)
  parser.add_argument('--kills', type=int, default=50, help='of each paper')
  parser.add_argument('--papers', type=lambda text: text.split(','),
                      default=list(BINARIES), help=','.join(BINARIES))
  parser.add_argument('--seed', type=int, default=secrets.randbelow(2**31))
  args = parser.parse_args(argv)
  if unknown := set(args.papers) - set(BINARIES):
    parser.error(f'--papers: {sorted(unknown)} not among {list(BINARIES)}')
  scratch = pathlib.Path(tempfile.mkdtemp(prefix='gradiv_soak_'))
  print(f'--seed={args.seed}, in {scratch}', flush=True)
  lost = []
  for paper in args.papers:
    say = functools.partial(print, f'{paper}:', flush=True)
    try:
      Soak(BINARIES[paper], scratch / paper, args.kills,
           random.Random(f'{args.seed} {paper}'), say).run()
      say(f'nothing lost in {args.kills} kills')
      shutil.rmtree(scratch / paper)
    except Lost as error:
      say(f'LOST: {error}')
      lost.append(paper)
  if not lost:
    shutil.rmtree(scratch)
  return bool(lost)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
