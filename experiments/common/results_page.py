"""Writes docs/papers.md and the table of README.md from the papers' claims.

  python -m experiments.common.results_page            # writes both
  python -m experiments.common.results_page --check    # fails if stale
  python -m experiments.common.results_page --take=runs/agreement_filtering

The claims lie in `docs/results/<paper>.json`; `--take` copies those of a
finished run there, with the figures that the page shows. The forest plots of
the claims are drawn from there, too.
"""

import pathlib
import shutil
import sys
import textwrap

from experiments.common import claims as claims_lib, tables
from experiments.common.claims import VERDICTS, Claim

ROOT = pathlib.Path(__file__).parents[2]
ORDER = ('gradient_diversity', 'mechanisms', 'critical_parameters',
         'decentralized', 'agreement_filtering', 'adascale',
         'batch_size_control', 'critical_batch')
BEGIN, END = '<!-- results: begin -->', '<!-- results: end -->'
HEAD = """# The papers, claim by claim

For each claim: what our command measures on data that comes with the
repository, with its 95 % interval over independent runs, and the paper's own
number where we could read it. A claim ✓ holds if the whole interval lies in the
allowed range, and ✗ fails if it lies outside. ◐ is open: the interval allows
both, or a second run, which differs in rounding alone, disagrees. Most commands
skip that second run; the flag `--roundings=2` adds it. This page is written by
`make results`, from `docs/results/*.json`.
"""


def stories() -> list[tuple[dict, list[Claim]]]:
  """Read the claims of all papers, in their order."""
  folder = ROOT / 'docs' / 'results'
  return [claims_lib.read(folder / f'{name}.json') for name in ORDER
          if (folder / f'{name}.json').exists()]


def counts(claims: list[Claim]) -> str:
  """Count the verdicts: '6 ✓ 8 ◐'."""
  found = [claim.verdict for claim in claims]
  return ' '.join(f'{found.count(word)} {mark}'
                  for word, mark in VERDICTS.items() if word in found)


def page() -> str:
  """Write docs/papers.md."""
  return '\n'.join([HEAD, *(section(*story) for story in stories())])


def section(story: dict, claims: list[Claim]) -> str:
  """Write the section of a paper: setup, claims, notes, figures."""
  again = (', each trained twice with different rounding (`--roundings=2`)'
           if story['roundings'] > 1 else '')
  lines = [
    f'## {story["title"]}', '', f'[The paper]({story["link"]}) · '
    f'`{story["command"]}` · {counts(claims)}', '', wrapped(
      f'{story["setup"]} {story["num_seeds"]} seeds{again}.'), '',
    table(claims).markdown(), '',
    f'![Each claim with its interval and its range]({_forest_of(story)})', '']
  lines += ['<details><summary>What is measured</summary>', '',
            *(wrapped(f'{i}. {detail(claim)}', indent='   ')
              for i, claim in enumerate(claims, 1)),
            '', '</details>', '']
  for name, caption in story['pictures'].items():
    lines += [f'![{caption}](results/{story["name"]}_{name}.png)', '']
  return '\n'.join(lines)


def _forest_of(story: dict) -> str:
  return f'results/{story["name"]}_claims.svg'


def table(claims: list[Claim]) -> tables.Table:
  """Make the table of a section: the verdict first."""
  return tables.Table(
    '', ('', 'claim', 'the paper', 'here', 'holds if'),
    [(VERDICTS[claim.verdict], f'{i}. {claim.text}',
      tables.number(claim.paper, claim.unit),
      tables.measured(claim), tables.allowed(claim))
     for i, claim in enumerate(claims, 1)], is_text=True)


def detail(claim: Claim) -> str:
  """Say what a claim measures, where it stands, and what else to know."""
  source = {'': '', 'ours': ' A question of ours.'}.get(
    claim.source, f' In the paper: {claim.source}.')
  again = '' if claim.second is None else (
    ' With the other rounding '
    f'{tables.with_interval(claim.second, claim.unit, claim.allowed)}.')
  return (f'{claim.how[0].upper()}{claim.how[1:]}.{source}{again} '
          f'{claim.note}').rstrip()


def readme_table() -> str:
  """Write the table of README.md: a line a paper."""
  rows = [(f'[{story["title"]}]({story["link"]})', f'`{story["command"]}`',
           counts(claims), story['sentence'])
          for story, claims in stories()]
  return tables.Table('', ('paper', 'command', 'claims', 'what we found'),
                      rows, is_text=True).markdown()


def wrapped(text: str, width: int = 100, indent: str = '') -> str:
  """Break a paragraph into lines; all but the first are indented."""
  return '\n'.join(textwrap.wrap(
    text, width, subsequent_indent=indent, break_long_words=False,
    break_on_hyphens=False))


def outputs() -> dict[pathlib.Path, str]:
  """Return the text of both files, as they should be."""
  readme = ROOT / 'README.md'
  text = readme.read_text()
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  if not rest or END not in text:
    raise ValueError(f'{readme} must hold the lines {BEGIN} and {END}')
  return {ROOT / 'docs' / 'papers.md': page(),
          readme: f'{before}{BEGIN}\n{readme_table()}\n{END}{after}'}


def draw_forests() -> None:
  """Draw the claims of every paper into docs/results."""
  from experiments.common import plots  # loads matplotlib
  for story, claims in stories():
    plots.save_svg(plots.forest(claims), ROOT / 'docs' / _forest_of(story))


def take(workdir: pathlib.Path) -> None:
  """Copy the claims and figures of a finished run to docs/results."""
  story, _ = claims_lib.read(workdir / 'claims.json')
  folder = ROOT / 'docs' / 'results'
  folder.mkdir(exist_ok=True)
  shutil.copy(workdir / 'claims.json', folder / f'{story["name"]}.json')
  for name in story['pictures']:
    shutil.copy(workdir / f'{name}.png', folder / f'{story["name"]}_{name}.png')


def main(argv: list[str]) -> int:
  """Write, or with --check compare; returns the exit code."""
  for arg in argv:
    if arg.startswith('--take='):
      take(pathlib.Path(arg.removeprefix('--take=')))
  stale = [path for path, text in outputs().items()
           if not path.exists() or path.read_text() != text]
  if '--check' in argv:
    for path in stale:
      print(f'{path.relative_to(ROOT)} is stale: run make results',
            file=sys.stderr)
    return bool(stale)
  draw_forests()
  for path, text in outputs().items():
    path.write_text(text)
    print(f'wrote {path.relative_to(ROOT)}')
  return 0


if __name__ == '__main__':
  raise SystemExit(main(sys.argv[1:]))
