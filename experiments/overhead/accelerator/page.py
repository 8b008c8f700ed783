"""The record of `make accelerator` as the Markdown tables of the docs.

  python -m experiments.overhead.accelerator.page docs/results/NAME.jsonl
"""

import json
import pathlib
import sys

RULES = ('mean', 'tracked mean', 'agreement', 'krum', 'upgrad', 'median',
         'trimmed mean', '8-bit mean', 'Gram matrix and weighted sum')
# What TorchJD calls otherwise, or has not.
PEERS = ('mean', 'krum', 'upgrad', 'trimmed mean')
WAYS = {'gradiv': '`example_moments`', 'gradiv_norms': '`example_sq_norms`',
        'gradiv_gram': '`example_gram`', 'vmap': '`vmap(grad)`',
        'jax_privacy': 'JAX-Privacy'}


def read(path: pathlib.Path) -> tuple[dict, list[dict]]:
  """Read a record: what ran it, and the rows."""
  head, *rows = map(json.loads, path.read_text().splitlines())
  return head, rows


def per_example(rows: list[dict]) -> str:
  """Lay out the time and the memory of per-example statistics."""
  lines = ['| network, examples | plain | ' + ' | '.join(WAYS.values()) + ' |',
           '|---' * (len(WAYS) + 2) + '|']
  for row in rows:
    if row['table'] == 'per_example':
      plain = row['ways']['plain']
      cells = [f'{row["row"]} ({row["parameters"] / 1e6:.3g}M), '
               f'{row["examples"]}',
               f'{plain["milliseconds"]:.2f} ms, '
               f'{plain["temporary_mib"]:.0f} MiB']
      cells += [_ratios(row['ways'].get(way), plain) for way in WAYS]
      lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _ratios(way, plain):
  """Write time and memory over those of the plain step."""
  if way is None:
    return ''
  if 'failed' in way:
    return 'out of memory' if 'memory' in way['failed'].lower() or (
      'RESOURCE' in way['failed']) else 'fails'
  memory = way['temporary_mib'] / plain['temporary_mib']
  return f'{way["milliseconds"] / plain["milliseconds"]:.2f}, {memory:.2f}'


def combining(rows: list[dict]) -> str:
  """Lay out the time of each rule over the sum of the rows, and TorchJD's."""
  ours = [row for row in rows if row['table'] == 'combining']
  theirs = {(row['n'], row['D']): row['ways'] for row in rows
            if row.get('package') == 'torchjd'}
  lines = ['| rule | ' + ' | '.join(
    f'n = {row["n"]}, D = {row["D"]:.0e}'.replace('e+0', 'e')
    for row in ours) + ' |', '|---' * (len(ours) + 1) + '|']
  for rule in RULES:
    cells = []
    for row in ours:
      if rule not in row['ways']:
        cells.append('')
        continue
      own = row['ways'][rule]['milliseconds']
      cell = f'{own:.2f} ms ({own / row["ways"]["mean"]["milliseconds"]:.1f})'
      other = theirs.get((row['n'], row['D']), {}).get(rule)
      if rule in PEERS and other:
        cell += f'; TorchJD {other["milliseconds"]:.2f} ms'
      cells.append(cell)
    lines.append(f'| {rule} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def over_first(rows: list[dict], table: str) -> str:
  """Lay out a table whose first way is the plain one."""
  lines = ['| what | time | times the first |', '|---|---|---|']
  for row in rows:
    if row['table'] == table:
      first = next(iter(row['ways'].values()))['milliseconds']
      lines += [f'| {name} | {way["milliseconds"]:.2f} ms | '
                f'{way["milliseconds"] / first:.2f} |'
                for name, way in row['ways'].items()]
  return '\n'.join(lines)


def tables(path: pathlib.Path) -> list[str]:
  """Return all tables of a record."""
  _, rows = read(path)
  return [per_example(rows), combining(rows), over_first(rows, 'tracking'),
          over_first(rows, 'elementwise')]


def main(path: str) -> None:
  """Print the tables of a record."""
  print('\n\n'.join(tables(pathlib.Path(path))))


if __name__ == '__main__':
  main(sys.argv[1])
