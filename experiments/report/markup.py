"""HTML as values: whatever is not `Raw` is escaped, so that no name can break
a page."""

import html
from typing import Any


class Raw(str):
  """Text that is HTML already."""


# These have no end tag.
_EMPTY = {'br', 'meta', 'img', 'line', 'circle', 'rect', 'path', 'use'}


def tag(name: str, /, *inner: Any, **attributes: Any) -> Raw:
  """Make an element.

  >>> tag('p', 'a < b', Raw('<b>c</b>'), class_='note', hidden=True)
  '<p class="note" hidden>a &lt; b<b>c</b></p>'

  Args:
    name: Of the element.
    *inner: What it holds; None is left out.
    **attributes: A trailing underscore is dropped, others become hyphens. True
      stands alone; None and False are left out.
  """
  shown = []
  for key, value in attributes.items():
    key = key.rstrip('_').replace('_', '-')
    if value is True:
      shown.append(f' {key}')
    elif value is not None and value is not False:
      shown.append(f' {key}="{html.escape(str(value))}"')
  begin = f'<{name}{"".join(shown)}>'
  if name in _EMPTY:
    return Raw(begin if name in ('br', 'meta', 'img') else begin[:-1] + '/>')
  return Raw(f'{begin}{join(*inner)}</{name}>')


def join(*parts: Any) -> Raw:
  """Put elements and text behind one another."""
  return Raw(''.join(
    part if isinstance(part, Raw) else html.escape(str(part))
    for part in parts if part is not None))


def prose(text: str) -> Raw:
  """Write a sentence; what stands in backticks is code.

  >>> prose('`a < b` holds')
  '<code>a &lt; b</code> holds'
  """
  return join(*(tag('code', part) if i % 2 else part
                for i, part in enumerate(text.split('`'))))


def table(head: Any, rows: Any, **attributes: Any) -> Raw:
  """Make a table that scrolls in itself where it is wider than the page."""
  cells = lambda name, row: tag('tr', *(tag(name, cell) for cell in row))
  body = tag('tbody', *(cells('td', row) for row in rows))
  top = tag('thead', cells('th', head)) if head else None
  return tag('div', tag('table', top, body, **attributes), class_='scroll',
             tabindex='0', role='region', aria_label='a table')
