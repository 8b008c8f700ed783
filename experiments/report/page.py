"""The page of a run: one file, which opens without a network."""

import base64
import pathlib
import time
from collections.abc import Iterator, Mapping

import numpy as np

from experiments.report import (
  columns,
  figures,
  groups,
  numbers,
  quantities,
  settings,
  timing,
  verdicts,
)
from experiments.report.markup import Raw, join, prose, tag
from experiments.report.reading import Run

_HERE = pathlib.Path(__file__).parent


def of_run(run: Run, refresh: float = 0.) -> str:
  """Write the page of a run.

  Args:
    run: What its folder holds.
    refresh: Seconds after which a browser loads the page anew; 0 for never.
  """
  found = {part.name: columns.of_part(part) for part in run.parts}
  title = run.story.get('title') or run.name
  return document(
    run.name, refresh, tag('h1', title), tag('p', status(run), class_='status'),
    *said(run), _setup(run), _tiles(run, found), _claims(run), _pictures(run),
    _figures(run, found), timing.of_run(run), settings.shown(run))


def document(name: str, refresh: float, *body: Raw | None) -> str:
  """Make a page of its sections."""
  read = lambda file: (_HERE / file).read_text()
  head = tag(
    'head', tag('meta', charset='utf-8'),
    tag('meta', name='viewport', content='width=device-width,initial-scale=1'),
    tag('meta', http_equiv='refresh', content=f'{refresh:g}')
    if refresh else None,
    tag('title', f'{name} · gradiv'), tag('style', Raw(read('style.css'))))
  script = tag('script', Raw(read('hover.js')))
  return '<!doctype html>\n' + tag(
    'html', head, tag('body', *body, script), lang='en') + '\n'


def status(run: Run) -> str:
  """Say how far a run is, and when it wrote last."""
  when = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.seen))
  done = sum(part.is_done for part in run.parts)
  # Of a run without a lock nobody knows whether somebody is at work.
  is_training = run.is_running and bool(run.config)
  if not run.parts:
    return str(run.folder)
  if run.num_parts == 1:
    part, = run.parts
    of = f' of {part.steps:,}' if part.steps else ''
    far = f'step {part.step:,}{of}'
  else:
    far = f'{done} of {run.num_parts} parts are finished'
    if is_training and done < len(run.parts):
      far += f', {len(run.parts) - done} running'
    elif is_training and run.config['flags'].get('roundings', 1) > 1:
      # Its parts lie in a folder of their own, and are not shown.
      far += ', then the second rounding'
  word = ('Training' if is_training else
          'Finished' if done == run.num_parts else 'Not finished')
  return f'{word} · {far} · last record {when} · {run.folder}'


def said(run: Run, name: str = '') -> Iterator[Raw]:
  """Yield what to read first: what was found, and the advice.

  Args:
    run: What its folder holds.
    name: Of the run, where there are several on the page.
  """
  whose = join(tag('b', name), ': ') if name else None
  sentence = run.story.get('sentence')
  if sentence:
    yield tag('p', whose, prose(sentence), class_='lead')
  advised = [part for part in run.parts if part.advice]
  if len(advised) == 1 and not sentence:
    advice = advised[0].advice
    yield tag('p', whose, advice if name else _upper(advice), '.',
              class_='lead')
  elif advised:
    count = f'{len(advised)} part{"s" if len(advised) > 1 else ""}'
    yield tag(
      'details', tag('summary', whose, f'Advice on batch sizes of {count}'),
      tag('ul', *(tag('li', tag('b', part.name), ': ', part.advice)
                  for part in advised)))


def _setup(run):
  """Say what was trained."""
  if not run.story.get('setup'):
    return None
  return tag('p', prose(run.story['setup']), ' ',
             _link(run.story.get('link', '')), class_='aside')


def _link(address):
  """Link to the paper; to nothing that a browser might run."""
  return tag('a', 'The paper.', href=address) if (
    address.startswith('https://')) else None


def _upper(text):
  return text[:1].upper() + text[1:]


def _tiles(run, found):
  tiles = list(headline(run, found))
  return tag('div', *(tag('div', tag('b', value), tag('span', name))
                      for name, value in tiles), class_='tiles'
             ) if tiles else None


def headline(run: Run, found: Mapping[str, Mapping[str, columns.Column]]
             ) -> Iterator[tuple[str, str]]:
  """Yield (name, value) of what to see at a glance."""
  if run.claims:
    words = [claim['verdict'] for claim in run.claims]
    for word, plural in (('holds', 'claims hold'), ('fails', 'claims fail'),
                         ('open', 'claims are open'),
                         ('unknown', 'claims are unknown')):
      if word in words:
        yield plural, str(words.count(word))
  if len(run.parts) == 1:
    part, = run.parts
    held = found[part.name]
    for name in ('loss', 'batch_loss', 'accuracy'):
      if name in held and held[name].is_scalar and len(held[name].values):
        yield name, numbers.number(float(held[name].middle()[-1]))
    for bound in quantities.bounds(held)[:1]:
      known = np.flatnonzero(np.isfinite(bound.value))
      yield 'B_S, examples', numbers.number(float(bound.value[known[-1]]))
    if (used := quantities.batch_used(part, held)) is not None:
      yield 'batch size', numbers.number(float(used.middle()[-1]))
  seconds = sum(map(timing.seconds, run.parts))
  if seconds:
    # Parts may run side by side: the run itself takes less.
    name = 'training' if len(run.parts) == 1 else 'training, sum over the parts'
    yield name, numbers.duration(seconds)
  if len(run.parts) == 1 and (rate := timing.rate(run.parts[0])):
    yield 'steps per second', numbers.number(rate)


def _claims(run):
  if not run.claims:
    return None
  return join(tag('h2', f'Claims: {verdicts.counted(run.claims)}'),
              verdicts.listed(run.claims))


def _pictures(run):
  """Show the figures that the paper's study has drawn."""
  shown = []
  for name, caption in run.story.get('pictures', {}).items():
    path = run.folder / f'{pathlib.Path(name).name}.png'
    if path.exists():
      data = base64.b64encode(path.read_bytes()).decode()
      shown.append(tag('figure', tag(
        'img', src=f'data:image/png;base64,{data}', alt=caption,
        loading='lazy'), tag('figcaption', caption)))
  return join(tag('h2', 'Figures of the study'), *shown) if shown else None


def _figures(run, found):
  sections = []
  for name, parts in groups.grouped(run.parts).items():
    first, others = groups.of_group(parts, found)
    own = [(part, figures.of_part(part, found[part.name])) for part in parts]
    own = [(part, drawn) for part, drawn in own if drawn]
    sections.append(join(tag('h3', name) if name else None, *first))
    if len(run.parts) == 1:
      sections += [join(tag('h3', 'Gradients'), *drawn) for _, drawn in own]
    else:
      sections += [_folded(f'Gradients of {part.name}', drawn)
                   for part, drawn in own]
    if others:
      sections.append(_folded(
        f'More that {name or "the run"} recorded', others))
  if not any(sections):
    return None
  return join(tag('h2', 'Training'), *sections)


def _folded(title, drawn):
  return tag('details', tag('summary', f'{title} ({len(drawn)})'), *drawn,
             class_='section')
