"""Claims with their verdicts: a table whose rows show interval and range."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.report import numbers
from experiments.report.markup import Raw, join, tag
from experiments.report.shapes import percent

MARKS = {'holds': '✓', 'fails': '✗', 'open': '◐', 'unknown': '?'}
_MIDDLE = 15  # of a row's drawing, in pixels


def counted(claims: Sequence[dict[str, Any]]) -> str:
  """Count the verdicts.

  >>> counted([{'verdict': 'holds'}, {'verdict': 'open'}, {'verdict': 'holds'}])
  '2 hold, 1 open'
  """
  words = [claim['verdict'] for claim in claims]
  plural = {'holds': 'hold', 'fails': 'fail'}
  return ', '.join(f'{words.count(word)} {plural.get(word, word)}'
                   for word in MARKS if word in words)


def badge(verdict: str) -> Raw:
  """Write a verdict as a mark and a word."""
  mark = MARKS.get(verdict, '?')
  known = verdict if verdict in MARKS else 'unknown'
  return tag('span', f'{mark} {verdict}', class_=f'badge {known}')


def listed(claims: Sequence[dict[str, Any]]) -> Raw:
  """Write all claims, each with a drawing on a scale of its own."""
  has_second = any(claim.get('second') for claim in claims)
  return join(
    tag('ol', *(tag('li', _claim(claim)) for claim in claims), class_='claims'),
    tag('p', 'The dot is our value, its bar the 95 % interval over independent '
        'runs, and the gray range is where the claim holds. A diamond is the '
        'number of the paper. A claim is open where its interval crosses an '
        'end of the range' + (
          ', or where a second rounding of the runs disagrees.'
          if has_second else '.'), class_='aside'))


def value(claim: dict[str, Any]) -> str:
  """Write what was measured, with its interval."""
  return numbers.with_interval(
    claim['measured'], claim.get('unit', ''), _range(claim))


def _claim(claim):
  unit = claim.get('unit', '')
  facts = [('measured', claim.get('how')), ('paper', _paper(claim)),
           ('runs', claim.get('runs') or None), ('note', claim.get('note'))]
  shown = [join(tag('dt', name), tag('dd', text)) for name, text in facts
           if text]
  return join(
    tag('div', badge(claim['verdict']), tag('span', claim['text']),
        class_='text'),
    _drawing(claim),
    tag('div', tag('b', value(claim)), f' · holds if '
        f'{numbers.within(*_range(claim), unit)}', class_='value'),
    tag('details', tag('summary', 'What is measured'),
        tag('dl', *shown)) if shown else None)


def _paper(claim):
  source, paper = claim.get('source'), claim.get('paper')
  number = None if paper is None else numbers.number(
    paper, claim.get('unit', ''))
  return ', '.join(filter(None, (number, source)))


def _range(claim):
  low, high = claim['allowed']
  return (-math.inf if low is None else low, math.inf if high is None else high)


def _drawing(claim):
  """Draw a claim on a scale that holds all of its numbers."""
  known = [x for x in claim['measured'] if x is not None]
  paper, allowed = claim.get('paper'), _range(claim)
  shown = [x for x in (*known, paper, *allowed)
           if x is not None and math.isfinite(x)] or [0.]
  pad = 0.12 * (max(shown) - min(shown)) or 1.
  low, high = min(shown) - pad, max(shown) + pad
  at = lambda x: percent((min(max(x, low), high) - low) / (high - low))
  left, right = ((min(max(x, low), high) - low) / (high - low) for x in allowed)
  marks = [tag('rect', tag('title', 'holds within'), class_='range',
               x=percent(left), width=percent(right - left), y=5, height=20)]
  if len(known) == 3:
    middle, *ends = known
    marks += [tag('line', class_='interval', x1=at(ends[0]), x2=at(ends[1]),
                  y1=_MIDDLE, y2=_MIDDLE),
              tag('circle', class_='ours', cx=at(middle), cy=_MIDDLE, r=5)]
  if paper is not None:
    marks.append(tag('svg', tag('path', d='M0-5 5 0 0 5-5 0Z', class_='paper'),
                     x=at(paper), y=_MIDDLE, overflow='visible'))
  said = (f'{claim["verdict"]}: measured {value(claim)}' +
          (f', the paper {numbers.number(paper, claim.get("unit", ""))}'
           if paper is not None else ''))
  verdict = claim['verdict'] if claim['verdict'] in MARKS else 'unknown'
  return tag('svg', tag('title', said), *marks, class_=f'forest {verdict}',
             width='100%', height=30, role='img', aria_label=said)
