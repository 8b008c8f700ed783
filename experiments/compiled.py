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
  found = []
  for line in text.splitlines():
    match = re.search(rf' = (.*?) ({"|".join(_SENT)})(-start)?\(', line)
    if match:
      shapes = re.findall(r'[a-z0-9]+\[([0-9,]*)\]', match[1])
      if match[3] and match[2] == 'all-gather':
        shapes = shapes[-1:]  # the first is the operand again
      found.append(Collective(match[2], sum(
        math.prod(int(d) for d in shape.split(',') if d)
        for shape in shapes)))
  return found


def elements_sent(text: str, num_workers: int) -> float:
  """Count the elements that each worker sends, on a ring of all of them."""
  share = (num_workers - 1) / num_workers
  return sum(_SENT[name] * share * size for name, size in collectives(text))
