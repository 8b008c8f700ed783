"""What a run is: the configuration that a folder belongs to."""

import json
import pathlib
from collections.abc import Collection


class OtherRunError(ValueError):
  """The folder holds a run of another configuration."""


def check_layout(stored: dict, now: dict, workdir: pathlib.Path) -> None:
  """Raise OtherRunError where a run was begun on other devices.

  Args:
    stored: `Workers.layout` of the run in `workdir`.
    now: That of this run.
    workdir: For the message.
  """
  if stored != now:
    words = [', '.join(f'{name}={value}' for name, value in layout.items())
             for layout in (stored, now)]
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run with {words[0]}; now there are '
      f'{words[1]}, and sums are rounded otherwise: pass --allow_reshape (in '
      'Python, allow_reshape=True in Workers) to go on all the same')


def check_config(stored: dict, wanted: dict, workdir: pathlib.Path,
                 allow_changed: Collection[str] = ()) -> None:
  """Raise OtherRunError where what is stored is of another configuration.

  Args:
    stored: The configuration of what `workdir` holds.
    wanted: The configuration of this run.
    workdir: For the message.
    allow_changed: Names whose values may differ.
  """
  wanted = json.loads(json.dumps(wanted))
  changed = [
    f'{name}: {stored.get(name)!r} there, {wanted.get(name)!r} now'
    for name in sorted(stored.keys() | wanted.keys())
    if stored.get(name) != wanted.get(name) and name not in allow_changed
  ]
  if changed:
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run of another '
      f'configuration ({"; ".join(changed)}): pass the same flags to go on '
      'with it, or another --workdir'
    )
