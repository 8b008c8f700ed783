"""Writes the tables of docs/performance.md from the records of `make overhead`.

  python -m experiments.overhead.page --take=runs/overhead   # of a new run
  python -m experiments.overhead.page                        # anew
  python -m experiments.overhead.page --check                # fails if stale
"""

import json
import pathlib
import sys

from experiments.engine import records
from experiments.overhead import limits

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
PAGE, RESULTS = DOCS / 'performance.md', DOCS / 'results'
# Where a run leaves its records, and what they are called in docs/results.
RECORDS = {'overhead.json': 'overhead.json',
           'examples/overhead_examples.json': 'overhead_examples.json'}
NAMES = tuple(RECORDS.values())
EVERY = 16
_WAYS = {'gradiv': '`example_moments`', 'gradiv_norms': '`example_sq_norms`',
         'gradiv_gram': '`example_gram`', 'vmap': '`vmap(grad)`',
         'gradiv_clipping': '`clipped_grad`', 'jax_privacy': 'JAX-Privacy'}


def main(argv: list[str]) -> int:
  """Write the page, or with --check compare it; return the exit code."""
  taken, is_check = '', False
  for argument in argv:
    if argument.startswith('--take='):
      taken = argument.partition('=')[2]
    elif argument == '--check':
      is_check = True
    else:
      print(f'{argument!r} is not known; there are --take=DIR and --check')
      return 2
  for left, name in RECORDS.items() if taken else ():
    record = json.loads((pathlib.Path(taken) / left).read_text())
    del record['config']['workdir']  # of this machine
    records.write_whole(RESULTS / name, record)
  before = PAGE.read_text()
  now = page(before, *(json.loads((RESULTS / x).read_text()) for x in NAMES))
  if is_check:
    if before == now:
      return 0
    print(f'{PAGE} is stale: run python -m experiments.overhead.page')
    return 1
  PAGE.write_text(now)
  print(f'wrote {PAGE}')
  return 0


def page(text: str, overhead: dict, examples: dict) -> str:
  """Return the page with its tables put between their marks."""
  for name, lines in {
      'limits': limits_table(overhead, examples),
      'device': [f'{overhead["device"]}, jax {overhead["jax"]}, float32.'],
      'exchange': exchange_table(overhead['exchange']),
      'layers': layers_table(overhead['layers']),
      'training': training_table(overhead['training']),
      'peers': peers_table(overhead['peers']),
      'examples': examples_table(examples['results'])}.items():
    begin, end = f'<!-- {name}: begin -->\n', f'<!-- {name}: end -->\n'
    head, rest = text.split(begin)
    text = ''.join((
      head, begin, *(f'{line}\n' for line in lines), end,
      rest.split(end)[1]))
  return text


def _head(*cells):
  return [f'| {" | ".join(cells)} |', '|---' * len(cells) + '|']


def limits_table(overhead: dict, examples: dict) -> list[str]:
  """Lay out what was measured beside what we want to reach."""
  return [*_head('what', 'at most', 'measured', 'within'),
          *limits.rows(overhead, examples)]


def exchange_table(sizes: dict) -> list[str]:
  """Lay out what the exchange alone costs, over the mean."""
  columns = ('milliseconds', 'memory', 'sent')
  lines = _head('D', 'what', 'time', 'temporary memory', 'sent')
  for size, ways in sizes.items():
    for name, way in ways.items():
      time, _, sent = (way[x] / ways['mean'][x] for x in columns)
      lines.append(f'| {int(size):,} | {name} | {time:.2f} | '
                   f'{way["memory"]:.2f} | {sent:.2f} |')
  return lines


def layers_table(result: dict) -> list[str]:
  """Lay out what tracking by layer costs."""
  mean = result['ways']['mean']
  lines = _head('what', 'trace and compile', 'step', 'leaves of the state')
  for name, way in result['ways'].items():
    build, step = way['compile_seconds'], way['milliseconds']
    lines.append(
      f'| {name} | {build:.1f} s ({build / mean["compile_seconds"]:.2f}) | '
      f'{step:.0f} ms ({step / mean["milliseconds"]:.2f}) | '
      f'{way["state_leaves"] or ""} |')
  return lines


def training_table(result: dict) -> list[str]:
  """Lay out what each transformation adds to a training step."""
  rows = result['rows']
  plain = rows['plain']
  lines = _head('what', 'step', f'one step in {EVERY}', 'trace and compile',
                'temporary memory', 'sent')
  for name, row in rows.items():
    time, build, memory, sent = (row[x] / plain[x] for x in (
      'milliseconds', 'compile_seconds', 'memory', 'sent'))
    seldom = (f'{(EVERY - 1 + time) / EVERY:.3f}'
              if row['is_measure'] else '')
    lines.append(f'| {name} | {time:.2f} | {seldom} | {build:.2f} | '
                 f'{memory:.2f} | {sent:.2f} |')
  return lines


def peers_table(cells: list[dict] | str) -> list[str]:
  """Lay out TorchJD's time over ours, and our time."""
  if isinstance(cells, str):
    return [cells]
  lines = _head('rule', *(
    f'n = {cell["n"]}, D = {cell["D"]:,}' for cell in cells))
  for rule in cells[0]['rules']:
    shown = []
    for cell in cells:
      times = cell['rules'][rule]
      shown.append(times['failed'] if 'failed' in times else
                   f'{times["theirs"] / times["ours"]:.2f} '
                   f'({times["ours"]:.1f} ms)')
    lines.append(f'| {rule} | {" | ".join(shown)} |')
  return lines


def examples_table(results: dict) -> list[str]:
  """Lay out what per-example statistics cost, over the plain step."""
  lines = _head('network, examples', 'plain', *_WAYS.values())
  for name, result in results.items():
    ways = result['ways']
    plain = ways['plain']
    cells = [
      f'{name}, {result["num_examples"]}',
      f'{plain["milliseconds"]:.3g} ms, {plain["memory"] / 2**20:.3g} MiB']
    cells += [_ratios(ways[way], plain) if way in ways else ''
              for way in _WAYS]
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _ratios(way, plain):
  return ', '.join(f'{way[x] / plain[x]:.2f}' for x in (
    'milliseconds', 'memory', 'flops', 'build_seconds'))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
