"""The record of `make zoo` as the table of the docs.

  python -m experiments.overhead.zoo.page docs/results/zoo.jsonl
"""

import json
import pathlib
import sys

import numpy as np

HEADS = ('model', 'from', 'parameters', 'plain step', 'error', 'step', 'FLOPs',
         'memory', 'build', 'in products')
# The columns whose medians and upper ends are given.
RATIOS = ('step', 'flops', 'memory', 'build')


def read(path: pathlib.Path) -> list[dict]:
  """Read a record, a row a model."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def table(rows: list[dict]) -> str:
  """Lay out a row for each model, and what the ratios of all come to."""
  lines = ['| ' + ' | '.join(HEADS) + ' |', '|---' * len(HEADS) + '|']
  for row in rows:
    name = row['model'].replace('_', ' ')
    cells = [name, row['source']] + (
      [f'not run: {row["failed"]}'] + [''] * 7 if 'failed' in row else [
        f'{row["parameters"]:,}', f'{row["plain_milliseconds"]:.1f} ms',
        f'{row["error"]:.0e}', *(f'{row[key]:.2f}' for key in RATIOS),
        f'{100 * row["in_products"]:.0f} %'])
    lines.append('| ' + ' | '.join(cells) + ' |')
  ran = [row for row in rows if 'failed' not in row]
  for name, of in (('median', np.median),
                   ('90th percentile', lambda x: np.percentile(x, 90)),
                   ('largest', max)):
    cells = [f'**{name}**', '', '', '', f'{of(_column(ran, "error")):.0e}', *(
      f'{of(_column(ran, key)):.2f}' for key in RATIOS), '']
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _column(rows, key):
  return [row[key] for row in rows]


if __name__ == '__main__':
  print(table(read(pathlib.Path(sys.argv[1]))))
