"""Claims with their verdicts: a table whose rows show interval and range."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import numbers, scales
from experiments.report.markup import Raw, join, prose, tag
from experiments.report.shapes import percent

MARKS = {'holds': '✓', 'fails': '✗', 'open': '◐', 'unknown': '?'}
# Of the drawing of a claim, in pixels: its middle, and where the ticks begin.
_MIDDLE, _FOOT = 15, 28
# From this ratio of the numbers on, a logarithmic axis shows more.
_MANY_TIMES = 5.


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
        'number of the paper. Each claim has an axis of its own, which is '
        f'logarithmic where numbers differ more than {_MANY_TIMES:g} times. '
        'A claim is open where its interval crosses an '
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
           ('runs', str(claim.get('runs') or '')), ('note', claim.get('note'))]
  shown = [join(tag('dt', name), tag('dd', prose(text)))
           for name, text in facts if text]
  paper = claim.get('paper')
  theirs = None if paper is None else (
    f' · paper {numbers.number(paper, unit)}')
  return join(
    tag('div', badge(claim['verdict']), tag('span', prose(claim['text'])),
        class_='text'),
    _drawing(claim),
    tag('div', tag('b', value(claim)), f' · holds if '
        f'{numbers.within(*_range(claim), unit)}', theirs, class_='value'),
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
  """Draw a claim on an axis that holds all of its numbers."""
  known = [x for x in claim['measured'] if x is not None]
  paper, allowed = claim.get('paper'), _range(claim)
  axis = _axis([x for x in (*known, paper, *allowed)
                if x is not None and math.isfinite(x)] or [0.])
  place = lambda x: float(axis.at(min(max(x, axis.low), axis.high)))
  at = lambda x: percent(place(x))
  left, right = map(place, allowed)
  marks = [*_ticks(axis, claim.get('unit', '')), tag(
    'rect', tag('title', 'holds within'), class_='range', x=percent(left),
    width=percent(right - left), y=5, height=20)]
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
             width='100%', height=_FOOT + 16, role='img', aria_label=said)


def _axis(shown):
  """Make an axis with some space beside its numbers."""
  is_log = min(shown) > 0 and max(shown) > _MANY_TIMES * min(shown)
  return scales.around([np.array(shown)], is_log=is_log, pad=0.12)


def _ticks(axis, unit):
  """Write round numbers below the drawing."""
  factor = 100 if unit == '%' else 1
  axis = scales.Scale(factor * axis.low, factor * axis.high, axis.is_log)
  for value, text in axis.ticks(4):
    at = percent(float(axis.at(value)))
    yield tag('line', class_='tick', x1=at, x2=at, y1=25, y2=_FOOT)
    yield tag('text', f'{text} %' if unit == '%' else text, class_='xtick',
              x=at, y=_FOOT + 12)
