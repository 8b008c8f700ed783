"""Flags become one frozen dataclass, and nothing below `main` reads them.

An experiment declares its flags as the fields of a dataclass derived from
`Config`; `parse` makes absl flags of them, so that ``--flagfile`` and
``--help`` work, and builds the instance. Checks live in `__post_init__`.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from experiments.engine import signals, trainer


class UsageError(ValueError):
  """A flag that does not fit the others, the data or the network."""


def flag(default: Any, text: str) -> Any:
  """Declare a field that is a flag, with its default and its help."""
  return dataclasses.field(default=default, metadata={'help': text})


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags that all experiments share."""

  workdir: str = flag('', 'folder for records, checkpoints and figures; a run '
                      'that was cut off goes on there')
  dataset: str = flag('digits', "'digits', or any image classification set of "
                      'TFDS')
  data_dir: str = flag('', 'where data sets lie; else TFDS_DATA_DIR, else '
                       '~/tensorflow_datasets')
  model: str = flag('mlp', 'logistic, mlp, cnn, cuda_convnet or resnet18')
  model_options: str = flag('{}', 'sizes of the model, as JSON')
  num_workers: int = flag(8, 'workers that share each batch')
  backend: str = flag('vmap', 'vmap, pmap or shard_map')
  num_seeds: int = flag(3, 'independent runs of each setting')
  lanes_at_once: int = flag(0, 'how many runs to train side by side where '
                            'all do not fit into memory; 0: all')
  seed: int = flag(0, 'the first seed')
  save_seconds: float = flag(20.0, 'least time between two checkpoints')
  parts_at_once: int = flag(0, 'how many parts to train side by side; 0: two '
                            'on a CPU, else one')
  roundings: int = flag(1, '2 trains everything once more with the examples of '
                        'each batch in reverse order: a claim on which the two '
                        'disagree is open')
  report: bool = flag(False, 'train nothing; judge, print and draw again what '
                      'is finished')
  rounding: str = ''  # no flag: 'reversed' in the second of two roundings

  def __post_init__(self):
    check(self.workdir, 'workdir', 'the path of a folder', bool)
    check(self.num_workers, 'num_workers', 'at least 1', lambda n: n >= 1)
    check(self.num_seeds, 'num_seeds', 'at least 1', lambda n: n >= 1)
    check(self.backend, 'backend', "'vmap', 'pmap' or 'shard_map'",
          lambda b: b in ('vmap', 'pmap', 'shard_map'))
    check(self.lanes_at_once, 'lanes_at_once', 'at least 0',
          lambda n: n >= 0)
    check(self.parts_at_once, 'parts_at_once', 'at least 0', lambda n: n >= 0)
    check(self.roundings, 'roundings', '1 or 2', lambda n: n in (1, 2))
    check(self.seed, 'seed', 'from 0 to 2**31', lambda s: 0 <= s < 2**31)
    options(self)

  @property
  def seeds(self) -> range:
    """The seeds of the runs of each setting."""
    return range(self.seed, self.seed + self.num_seeds)

  def workers(self, num_workers: int | None = None) -> trainer.Workers:
    """Say who computes; a single worker needs no backend of its own."""
    count = self.num_workers if num_workers is None else num_workers
    return trainer.Workers(
      count, self.backend if count > 1 else 'vmap', self.lanes_at_once,
      is_reversed=self.rounding == 'reversed')

  def schedule(self, steps: int, every: int) -> trainer.Schedule:
    """Say how long, and how often to evaluate and record."""
    return trainer.Schedule(steps, every, self.save_seconds)

  def pick(self, *names: str) -> dict[str, Any]:
    """Pick flags by name: what a part is defined by.

    Its numbers depend on them. How lanes are grouped, where data lie and when
    to save changes no number; the order of summation does.
    """
    return {name: getattr(self, name) for name in (*names, 'rounding')}

  def defining(self) -> dict:
    """All that defines the results: where and how often to save does not."""
    skip = ('workdir', 'data_dir', 'save_seconds', 'parts_at_once', 'roundings',
            'rounding', 'report')
    return {k: v for k, v in dataclasses.asdict(self).items() if k not in skip}


def check(value: Any, name: str, allowed: str, holds: Callable) -> None:
  """Raise UsageError, with the value and what is allowed, unless it holds."""
  if not holds(value):
    raise UsageError(f'--{name}={value!r}: must be {allowed}')


def options(config: Config, name: str = 'model_options') -> dict:
  """Read the sizes of a model; lists become tuples."""
  text = getattr(config, name)
  try:
    values = json.loads(text)
    values = {k: tuple(v) if isinstance(v, list) else v
              for k, v in values.items()}
  except (ValueError, AttributeError) as error:
    raise UsageError(
      f'--{name}={text!r}: must be a JSON object such as {{"hidden": [32]}}'
    ) from error
  return values


def parse(cls: type[Config], argv: Sequence[str]) -> Config:
  """Build a config from a command line.

  Raises:
    flags.Error: On an unknown flag, with the nearest names.
    UsageError: On a value out of range.
  """
  values = flags.FlagValues()
  flags.DEFINE_bool('help', False, 'show the flags', flag_values=values)
  declared = [f for f in dataclasses.fields(cls) if 'help' in f.metadata]
  for field in declared:
    _define(field, values)
  rest = values(list(argv))
  if values.help:
    print(f'{_story(cls)}\n\nflags:\n{values.get_help()}')
    raise SystemExit(0)
  if len(rest) > 1:
    raise flags.Error(f'{rest[1:]}: not a flag; each is --name=value')
  return cls(**{
    field.name: _value(field, values[field.name].value)
    for field in declared
  })


def _story(cls: type[Config]) -> str | None:
  """Return the docstring of the paper: of the package, or of the module."""
  module = sys.modules[cls.__module__]
  is_config = cls.__module__.endswith('.config')
  return sys.modules[module.__package__ if is_config else
                     cls.__module__].__doc__


def run(main: Callable[[Config], Any], cls: type[Config]) -> None:
  """Be the `__main__` of an experiment: parse, run, and set the exit code.

  0 after a whole run, 2 for a bad flag, 1 for data or disk that is not to be
  had, 130 after Ctrl-C and 143 after SIGTERM, with all saved.
  """
  try:
    config = parse(cls, sys.argv)
  except (flags.Error, ValueError) as error:
    print(f'{error}\n--help lists the flags', file=sys.stderr)
    raise SystemExit(2) from None
  from experiments import data
  from experiments.engine import checkpoints, trainer
  try:
    main(config)
  except signals.Interrupted as stopped:
    print(f'{stopped}; the same command goes on from there', file=sys.stderr)
    raise SystemExit(stopped.exit_code) from None
  except (data.DataUnavailableError, checkpoints.CheckpointError,
          trainer.OtherRunError) as error:
    print(error, file=sys.stderr)
    raise SystemExit(1) from None


def _define(field, values):
  text, default = field.metadata['help'], field.default
  if isinstance(default, tuple):
    flags.DEFINE_list(field.name, [str(x) for x in default], text,
                      flag_values=values)
    return
  define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer,
            float: flags.DEFINE_float, str: flags.DEFINE_string}[type(default)]
  define(field.name, default, text, flag_values=values)


def _value(field, value):
  if not isinstance(field.default, tuple):
    return value
  kind = type(field.default[0])
  try:
    return tuple(kind(x) for x in value)
  except ValueError:
    raise UsageError(
      f'--{field.name}={",".join(value)!r}: must be a comma-separated list '
      f'of {kind.__name__}'
    ) from None
