"""A binary of a second that goes on after a kill, or forgets to.

  python -m tests.soak.stand_in [--forgets] --workdir=FOLDER --data_dir=UNUSED
"""

import json
import pathlib
import sys
import time

from experiments import holding

RECORDS = 10


def main(workdir: pathlib.Path, forgets: bool) -> None:
  """Count, and write what was counted at the end."""
  (workdir / 'config.json').write_text(f'begun at {time.time()}')
  log = workdir / 'metrics.jsonl'
  done = log.read_text().splitlines() if log.exists() else []
  with log.open('a') as file:
    for i in range(0 if forgets else len(done), RECORDS):
      file.write(f'{{"step": {i}}}\n')
      file.flush()
      time.sleep(0.05)
  (workdir / 'summary.json').write_text(json.dumps(log.read_text()))


if __name__ == '__main__':
  folder, = (x.partition('=')[2] for x in sys.argv if x.startswith('--workdir'))
  try:
    with holding.hold(folder):
      main(pathlib.Path(folder), '--forgets' in sys.argv)
  except holding.InUseError as error:
    sys.exit(str(error))
