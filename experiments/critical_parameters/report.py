"""What the records of `critical_parameters` say: claims, table, figures.

Reads records only, so that figures can be drawn again without any run.
"""

import pathlib
import textwrap

from experiments.critical_parameters import (
  claims as critical_claims,
  network,
  study as critical_studies,
  tuning,
)
from experiments.engine import records


def report(config) -> dict:
  """Judge, print and write the claims, and draw the figures."""
  from experiments.critical_parameters import figures
  workdir = pathlib.Path(config.workdir)
  claims = critical_claims.list_claims(config)
  summary = {'claims': claims, 'edges': edges(config)}
  if 'network' in config.studies:
    summary['network'] = {
      name: _plain(tuning.interval(runs)) for name, runs in
      critical_claims.network_critical(config).items()}
  records.write_whole(workdir / 'summary.json', summary)
  print(table(config, summary))
  for path in figures.draw_all(config):
    print(f'figure: {path}')
  print(f'records: {workdir}/*.json, {workdir}/network/*/metrics.jsonl')
  return summary


def edges(config) -> dict[str, list[int]]:
  """Count, by study, the cells whose rate is at an end of its grid."""
  counts = {}
  for name in config.studies:
    if name == 'rates':
      continue
    cells = ([network.load(config, cell)
              for cell in network.cells(config)]
             if name == 'network' else critical_studies.load(config, name))
    counts[name] = [sum(c['at_edge'] for c in cells), len(cells)]
  return counts


def table(config, summary) -> str:
  """Lay the claims out for a terminal."""
  claims = summary['claims']
  passed = sum(row['passed'] for row in claims)
  lines = [f'{config.num_seeds} runs of each cell, the rate of each chosen '
           f'on the others; 95 % intervals. {passed} of {len(claims)} claims '
           'hold.']
  for study in dict.fromkeys(row['study'] for row in claims):
    count = summary['edges'].get(study)
    lines += ['', study + (
      f' (rate at an end of the grid in {count[0]} of {count[1]} cells)'
      if count else '')]
    for row in claims:
      if row['study'] == study:
        lines += _lines(row)
  return '\n'.join(lines) + '\n'


def _lines(row):
  low, high = row['interval']
  measured = ('unknown' if row['measured'] is None else
              f'{row["measured"]:.3g} ({low:.3g} to {high:.3g})')
  least, most = row['allowed']
  allowed = f'≥ {least:.3g}' if most is None else f'{least:.3g} to {most:.3g}'
  head, *rest = textwrap.wrap(row['claim'], 60)
  word = 'pass' if row['passed'] else 'FAIL'
  lines = [f'  {word}  {head:<62}{measured:<26} {allowed}']
  lines += [f'        {line}' for line in rest]
  return lines + [
    f'          {line}' for line in textwrap.wrap(row['law'], 68)]


def _plain(numbers):
  return [x if x == x else None for x in numbers]
