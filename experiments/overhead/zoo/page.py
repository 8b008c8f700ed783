"""The record of `make zoo` as the table of the docs.

  python -m experiments.overhead.zoo.page docs/results/zoo.jsonl
"""

import json
import pathlib
import sys

HEADS = ('model', 'from', 'parameters', 'error', 'FLOPs', 'memory', 'build',
         'in products')


def read(path: pathlib.Path) -> list[dict]:
  """Read a record, a row a model."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def table(rows: list[dict]) -> str:
  """Lay out a row for each model, and the medians of those that ran."""
  lines = ['| ' + ' | '.join(HEADS) + ' |', '|---' * len(HEADS) + '|']
  for row in rows:
    name = row['model'].replace('_', ' ')
    cells = [name, row['source']] + (
      [f'not run: {row["failed"]}'] + [''] * 5 if 'failed' in row else [
        f'{row["parameters"]:,}', f'{row["error"]:.0e}',
        *(f'{row[key]:.2f}' for key in ('flops', 'memory', 'build')),
        f'{100 * row["in_products"]:.0f} %'])
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(table(read(pathlib.Path(sys.argv[1]))))
