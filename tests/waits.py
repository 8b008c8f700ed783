"""What each collective of a compiled program waits for."""

import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(r'^\s+(ROOT )?%([\w.-]+) = .*? ([\w-]+)\((.*)$')


def products_waited_for(text: str, collective: str) -> list[int]:
  """Count the matrix products before each operand of some collectives.

  An all-reduce that was put together from those of several leaves counts for
  each of its leaves.

  Args:
    text: Optimized HLO of a program.
    collective: Name of a collective, such as 'all-to-all'.

  Returns:
    For each operand that is not a scalar, the number of products, of those of
    the entry computation, from which it was computed.

  >>> products_waited_for('''
  ... ENTRY %main {
  ...   %a = f32[2,2] parameter(0)
  ...   %b = f32[2,2] dot(%a, %a)
  ...   %c = f32[2,2] dot(%a, %b)
  ...   %d = (f32[2,2], f32[2,2]) all-reduce(%b, %c)
  ... }''', 'all-reduce')
  [1, 2]
  """
  computations = dict(_computations(text))
  entry = computations['ENTRY']
  has_product = {
    name: any(kind == 'dot' for _, kind, _, _ in body)
    for name, body in computations.items()}
  before, shapes, found = {}, {}, []
  for name, kind, operands, line in entry:
    waits = frozenset().union(*(before.get(x, ()) for x in operands))
    if kind == collective:
      found += [len(before[x]) for x in operands
                if not re.search(r'= \w+\[\]', shapes[x])]
    called = re.findall(r'(?:calls|to_apply)=%([\w.-]+)', line)
    if kind == 'dot' or any(map(has_product.get, called)):
      waits |= {name}
    before[name], shapes[name] = waits, line
  return found


def _computations(text: str) -> Iterator[tuple[str, list[tuple]]]:
  """Yield the name of each computation and its instructions."""
  name, body = None, []
  for line in text.splitlines():
    start = re.match(r'(ENTRY )?%([\w.-]+) .*{$', line)
    if start:
      name, body = start[1] and 'ENTRY' or start[2], []
    elif line.startswith('}'):
      yield name, body
    elif match := _INSTRUCTION.match(line):
      operands = re.findall(r'%([\w.-]+)', match[4].split(')')[0])
      body.append((match[2], match[3], operands, line))
