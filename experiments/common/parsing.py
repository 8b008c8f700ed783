"""From a command line to a dataclass of flags, by absl."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from absl import flags as absl_flags

from experiments.common.flags import UsageError

T = TypeVar('T')
# Flags that say nothing of the run in a folder.
_OF_THE_COMMAND = ('workdir', 'report', 'allow_changed', 'allow_reshape',
                   'coordinator_address', 'num_processes', 'process_id',
                   'writers', 'profile', 'max_nonfinite', 'stuck_after')
_HELP = ('help', 'helpshort', 'helpfull')


def parse(cls: type[T], argv: Sequence[str]) -> T:
  """Build a config from a command line.

  With --report, flags that are not given are those of the run in the folder.

  Raises:
    absl.flags.Error: On an unknown flag, with the nearest names, and on a value
      of another type.
    UsageError: On a value out of range.
    SystemExit: After --help.
  """
  values = absl_flags.FlagValues()
  texts = ("show this paper's story and all flags", "show this paper's own "
           'flags', 'show all flags, and those of absl')
  for name, text in zip(_HELP, texts):
    absl_flags.DEFINE_bool(name, False, text, flag_values=values)
  for field in declared(cls):
    _define(field, values)
  rest = values(list(argv))
  for name in _HELP:
    if values[name].value:
      print(_help(cls, values, name))
      raise SystemExit(0)
  if len(rest) > 1:
    raise absl_flags.Error(f'{rest[1]!r} is not a flag; each is --name=value')
  given = {field.name: _value(field, values[field.name].value)
           for field in declared(cls)}
  if given.get('report'):
    given |= {name: x for name, x in _stored(cls, given['workdir']).items()
              if name in given and not values[name].present}
  return cls(**given)


def declared(cls: type) -> list[dataclasses.Field]:
  """List the fields that are flags."""
  return [f for f in dataclasses.fields(cls) if 'help' in f.metadata]


def paper(cls: type) -> str:
  """Name the paper: the folder of its dataclass of flags."""
  return cls.__module__.removeprefix('experiments.').split('.')[0]


def folder(cls: type, workdir: str) -> pathlib.Path:
  """Return the folder of a run."""
  return pathlib.Path(workdir or f'runs/{paper(cls)}')


def of_the_run(config: Any) -> dict[str, Any]:
  """Return the flags that say something of the run in the folder."""
  return {field.name: getattr(config, field.name)
          for field in declared(type(config))
          if field.name not in _OF_THE_COMMAND}


def _stored(cls, workdir) -> dict[str, Any]:
  """Read the flags of the run in the folder, where there is one."""
  try:
    text = (folder(cls, workdir) / 'config.json').read_text()
    return {name: tuple(x) if isinstance(x, list) else x
            for name, x in json.loads(text)['flags'].items()
            if name not in _OF_THE_COMMAND}
  except (OSError, ValueError, KeyError):
    return {}


def _groups(cls) -> Iterator[tuple[str, list[str]]]:
  """Yield the classes that declare flags, the most special first."""
  seen = set()
  for base in cls.__mro__:
    own = [f.name for f in declared(cls)
           if f.name in base.__dict__.get('__annotations__', {})
           and f.name not in seen]
    seen |= set(own)
    if own:
      yield (base.__doc__ or base.__name__).split('\n')[0].rstrip('.'), own


def _help(cls, values, which) -> str:
  groups = [f'{title}:\n\n' + '\n'.join(
    absl_flags.text_wrap(
      f'--{name}: {values[name].help}', 79, '    ', '  ') + _default(
        values[name]) for name in names) for title, names in _groups(cls)]
  if which == 'helpshort':
    return groups[0]
  story = sys.modules.get(f'experiments.{paper(cls)}')
  story = [story.__doc__.rstrip()] if story and story.__doc__ else []
  more = ['Flags of absl:\n\n  --flagfile: file with a flag on each line\n'
          '  --undefok: names of flags that need not be known']
  return '\n\n'.join([*story, *groups, *more * (which == 'helpfull')])


def _default(flag) -> str:
  lines = []
  if choices := getattr(flag, 'enum_values', None):
    lines.append(f'one of: {", ".join(choices)}')
  shown = flag.default
  if isinstance(shown, list):
    shown = ','.join(shown)
  if shown not in ('', None):
    lines.append(f'default: {shown}')
  return ''.join(f'\n    ({line})' for line in lines)


def _define(field, values):
  text, default = field.metadata['help'], field.default
  choices = field.metadata.get('choices')
  if isinstance(default, tuple):
    text += f': some of {", ".join(choices)}' if choices else ''
    absl_flags.DEFINE_list(field.name, [str(x) for x in default], text,
                           flag_values=values)
    return
  if choices:
    absl_flags.DEFINE_enum(
      field.name, default, list(choices), text, flag_values=values)
    return
  define = {bool: absl_flags.DEFINE_bool, int: absl_flags.DEFINE_integer,
            float: absl_flags.DEFINE_float, str: absl_flags.DEFINE_string}
  define[type(default)](field.name, default, text, flag_values=values)


def _value(field, value):
  if not isinstance(field.default, tuple):
    return value
  kind = type(field.default[0]) if field.default else str
  try:
    return tuple(kind(x) for x in value)
  except ValueError:
    raise UsageError(
      f'--{field.name}={",".join(value)}: must be a comma-separated list of '
      f'{kind.__name__}') from None
