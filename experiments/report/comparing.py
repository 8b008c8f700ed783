"""Two runs side by side: advice, and what differs in flags, claims, curves and
time."""

from collections.abc import Iterator

from experiments.report import (
  columns,
  drawing,
  figures,
  groups,
  page,
  quantities,
  settings,
  timing,
  verdicts,
)
from experiments.report.drawing import Figure, Line
from experiments.report.markup import Raw, join, prose, table, tag
from experiments.report.reading import Part, Run

_MAX_PARTS = 12  # that are drawn


def of_runs(first: Run, second: Run) -> str:
  """Write the page of two runs.

  Args:
    first: Its color is blue.
    second: Its color is orange.
  """
  names = _names(first, second)
  return page.document(
    f'{names[0]} and {names[1]}', 0.,
    tag('h1', f'{names[0]} and {names[1]}'),
    *(tag('p', tag('b', name), ': ', page.status(run), class_='status')
      for name, run in zip(names, (first, second))),
    *(found for name, run in zip(names, (first, second))
      for found in page.said(run, name)),
    _differences('Configuration', names, *(
      settings.flat(settings.of_run(run)) for run in (first, second))),
    _unrecorded(names, (first, second)),
    _differences('Versions', names, *map(settings.origin, (first, second))),
    _claims(names, first, second), _curves(names, first, second),
    _times(names, first, second))


def _names(first, second):
  """Name both; by their paths where the folders' names are the same."""
  if first.name != second.name:
    return first.name, second.name
  return str(first.folder), str(second.folder)


def _differences(title, names, first, second):
  """List the values that differ."""
  keys = [key for key in {**first, **second}
          if first.get(key, '') != second.get(key, '')]
  shown = table((title.lower(), *names), [
    (tag('code', key), *(tag('code', values.get(key, '–'))
                         for values in (first, second))) for key in keys]
  ) if keys else tag('p', (
    'What is recorded is the same in both.' if first else
    'Nothing is recorded.'))
  return join(tag('h2', f'{title}: what differs'), shown)


def _unrecorded(names, runs):
  """Say which runs have not recorded what defines them, and how to do so."""
  lacking = [name for name, run in zip(names, runs)
             if not settings.is_recorded(run)]
  return tag(
    'p', f'Not recorded for {" and ".join(lacking)}: model, optimizer, '
    'learning rate and whatever else may differ. To see it here, pass it to '
    "engine.fit, such as config={'learning_rate': 0.1}.") if lacking else None


def _claims(names, first, second):
  """List each claim with both verdicts, those that differ first."""
  by_key = [{claim['key']: claim for claim in run.claims}
            for run in (first, second)]
  keys = list({**by_key[0], **by_key[1]})
  if not keys:
    return None

  def cell(claim):
    return '–' if claim is None else join(
      verdicts.badge(claim['verdict']), tag('br'), verdicts.value(claim))

  pairs = {key: [found.get(key) for found in by_key] for key in keys}
  in_both = [key for key in keys if None not in pairs[key]]
  differ = [key for key in in_both
            if len({claim['verdict'] for claim in pairs[key]}) > 1]
  order = dict.fromkeys([*differ, *in_both, *keys])
  text = lambda key: prose(next(x for x in pairs[key] if x)['text'])
  rows = [(text(key), *map(cell, pairs[key])) for key in order]
  alone = [f'{len(by_key[i].keys() - by_key[1 - i].keys())} only in {names[i]}'
           for i in (0, 1) if by_key[i].keys() - by_key[1 - i].keys()]
  title = ', '.join([
    *([f'{len(differ)} of {len(in_both)} verdicts differ'] if in_both else []),
    *alone])
  return join(tag('h2', f'Claims: {title}'),
              table(('claim', *names), rows))


def _curves(names, first, second):
  pairs = _pairs(first, second)
  drawn = [draw for pair in pairs[:_MAX_PARTS]
           for draw in _of_pair(names, pair)]
  alone = (len(first.parts) - len(pairs), len(second.parts) - len(pairs))
  notes = [f'{count} parts of {name} have no counterpart.'
           for name, count in zip(names, alone) if count]
  if len(pairs) > _MAX_PARTS:
    notes.append(f'Shown are the first {_MAX_PARTS} of {len(pairs)} parts.')
  return join(tag('h2', 'Training'), tag('p', ' '.join(notes), class_='aside')
              if notes else None, *drawn) if drawn or notes else None


def _pairs(first: Run, second: Run) -> list[tuple[Part, Part]]:
  """Pair parts by their names; the only ones of two runs are a pair."""
  if len(first.parts) == len(second.parts) == 1:
    return [(first.parts[0], second.parts[0])]
  others = {part.name: part for part in second.parts}
  return [(part, others[part.name]) for part in first.parts
          if part.name in others]


def _of_pair(names, pair) -> Iterator[Raw]:
  """Draw each quantity of a part that both have recorded, on one axis."""
  found = [columns.of_part(part) for part in pair]
  title = f'{pair[0].name}: ' if pair[0].name else ''
  lines = [
    _line(names, i, bound.steps, bound.value, bound.low, bound.high)
    for i, each in enumerate(found) for bound in quantities.bounds(each)[:1]]
  drawn = [drawing.draw(Figure(
    f'{title}batch-size bound B_S', lines, y_label='examples', y_log=True))]
  for name in groups.to_compare(found):
    both = [each[name] for each in found]
    drawn.append(drawing.draw(Figure(
      f'{title}{name}', [
        _line(names, i, x.steps, x.middle(), *(x.band() or ()))
        for i, x in enumerate(both)], both[0].caption,
      y_log=all(figures.is_log(x.values) for x in both))))
  yield from (x for x in drawn if x is not None)


def _line(names, i, *values):
  """Draw the second run dashed, as it may lie on the first."""
  return Line(names[i], *values, color=f'var(--c{i})', is_dashed=i == 1)


def _times(names, first, second):
  return timing.listed(
    [(f'{name}: {part.name}' if part.name else name, part)
     for name, run in zip(names, (first, second)) for part in run.parts])
