"""What a compiled program costs, read off the program and not off a clock."""

import math
import re
from typing import NamedTuple

# Of a ring of n: what each worker sends, as a multiple of (n − 1)/n elements
# of the operand (of the result, for an all-gather).
_SENT = {'all-reduce': 2, 'all-to-all': 1, 'all-gather': 1,
         'reduce-scatter': 1}


class Collective(NamedTuple):
  """A collective of a program: its name and how many elements it moves.

  Of an all-gather the elements of the result, of all others those of the
  operand, which for an all-reduce and an all-to-all are as many.
  """

  name: str
  size: int


def collectives(text: str) -> list[Collective]:
  """List the collectives in the HLO text of a program.

  >>> collectives('%a = f32[2,3]{1,0} all-reduce(%b), channel_id=1')
  [Collective(name='all-reduce', size=6)]
  """
  return [Collective(name, sum(size for _, size in arrays))
          for name, arrays in _find(text)]


def bytes_sent(text: str, num_workers: int) -> float:
  """Count the bytes that each worker sends, on a ring of all of them.

  >>> bytes_sent('%a = u8[8,6]{1,0} all-to-all(%b), channel_id=1', 8)
  42.0
  """
  share = (num_workers - 1) / num_workers
  return sum(_SENT[name] * share * width * size
             for name, arrays in _find(text) for width, size in arrays)


def _find(text):
  """List the collectives: the name, and (bytes each, how many) of arrays."""
  found = []
  for line in text.splitlines():
    match = re.search(rf' = (.*?) ({"|".join(_SENT)})(-start)?\(', line)
    if match:
      arrays = re.findall(r'([a-z]+)([0-9]*)[a-z0-9]*\[([0-9,]*)\]', match[1])
      if match[3] and match[2] == 'all-gather':
        arrays = arrays[-1:]  # the first is the operand again
      found.append((match[2], [
        (1 if kind == 'pred' else int(bits) / 8,
         math.prod(int(d) for d in shape.split(',') if d))
        for kind, bits, shape in arrays]))
  return found
