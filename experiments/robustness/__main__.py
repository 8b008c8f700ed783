"""Writes docs/robustness.md; see `experiments.robustness`."""

import sys

from experiments.robustness import page

if __name__ == '__main__':
  if sys.argv[1:] not in ([], ['--check']):
    sys.exit(f'{sys.argv[1]!r} is not known; there is --check')
  sys.exit(page.main(is_check='--check' in sys.argv))
