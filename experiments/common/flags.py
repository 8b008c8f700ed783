"""What flags a paper has: the fields of a frozen dataclass, and their checks.

An experiment declares its flags as the fields of a dataclass derived from
`Config`. `parsing` makes absl flags of them. Checks live in `__post_init__`.
Nothing here imports JAX, so that a bad flag is refused at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from experiments.common import cluster
from experiments.engine.workers import BACKENDS
from experiments.models import options as model_options

if TYPE_CHECKING:
  from experiments.engine import schedule, workers

LARGEST_IMAGE = 1024
# What takes records, and the package that it needs.
WRITERS = {'tensorboard': 'tensorboardX', 'wandb': 'wandb'}


class UsageError(ValueError):
  """A flag that does not fit the others, the data or the network."""


def flag(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
  """Declare a field that is a flag.

  Args:
    default: Its default, which gives its type; a tuple is a list of the type
      of its first item, an empty one of text.
    text: Its help.
    choices: All values that are allowed, where they are known; of a tuple, all
      items.
  """
  return dataclasses.field(
    default=default, metadata={'help': text, 'choices': tuple(choices)})


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags that all papers share."""

  workdir: str = flag('', 'folder for records, checkpoints and figures, where '
                      'a run that was cut off goes on; empty: runs/<paper>')
  dataset: str = flag('digits', "'digits', or an image classification set of "
                      'TFDS')
  data_dir: str = flag('', 'folder of the data sets; empty: TFDS_DATA_DIR or '
                       '~/tensorflow_datasets')
  image_size: int = flag(0, 'size to scale and crop images to; 0: as they are')
  model: str = flag('mlp', 'network', model_options.IMAGE_MODELS)
  model_options: str = flag('{}', 'sizes of the network, as JSON')
  num_workers: int = flag(8, 'workers that share each batch')
  backend: str = flag('vmap', 'how workers are laid out', BACKENDS)
  num_seeds: int = flag(3, 'independent runs of each setting')
  seed: int = flag(0, 'the first seed')
  roundings: int = flag(1, '2 trains everything once more with the examples of '
                        'each batch in reverse order; a claim on which the two '
                        'disagree is open')
  lanes_at_once: int = flag(0, 'runs to train side by side where all do not '
                            'fit into memory; 0: all')
  parts_at_once: int = flag(0, 'parts to train side by side; 0: two on a CPU, '
                            'else one')
  save_seconds: float = flag(20.0, 'least time between two checkpoints')
  report: bool = flag(False, 'train nothing; judge, print and draw a finished '
                      'run again, with its flags where none are given; of the '
                      'figures, those for which records, flags or code have '
                      'changed')
  allow_changed: tuple[str, ...] = flag(
    (), 'names of what may differ from the run in the folder, such as '
    'eval_batch_size; its records are used all the same')
  allow_reshape: bool = flag(False, 'go on with a run that was begun by '
                             'another number of workers, devices or processes')
  coordinator_address: str = flag('', 'host:port at which process 0 can be '
                                  'reached by the others')
  num_processes: int = flag(0, 'processes that run this command together, with '
                            'one workdir; 0: those that Slurm or Open MPI has '
                            'started, else one; -1: jax asks the cluster (TPU '
                            'pods, Kubernetes)')
  process_id: int = flag(-1, 'which of the processes this is, from 0')
  compilation_cache: bool = flag(True, 'keep compiled programs in '
                                 '~/.cache/gradiv for the next start')
  writers: tuple[str, ...] = flag(
    (), f'who gets the records besides metrics.jsonl: {", ".join(WRITERS)}')
  profile: str = flag('', 'steps of each part to trace into its profile/, as '
                      'first:end, such as 100:110')
  max_nonfinite: int = flag(0, 'stop a part after this many steps in a row '
                            'without a finite gradient of any worker; 0: never')
  stuck_after: float = flag(0.0, 'seconds without progress after which to say '
                            'which process is stuck at which step; 0: ten '
                            'minutes, or twenty times the longest scan')
  rounding: str = ''  # no flag: 'reversed' in the second of two roundings

  def __post_init__(self):
    check_values(self)
    for name in ('num_workers', 'num_seeds'):
      check(getattr(self, name), name, 'at least 1', lambda n: n >= 1)
    for name in ('lanes_at_once', 'parts_at_once', 'save_seconds',
                 'max_nonfinite', 'stuck_after'):
      check(getattr(self, name), name, 'at least 0', lambda n: n >= 0)
    check(self.image_size, 'image_size', f'from 0 to {LARGEST_IMAGE}',
          lambda n: 0 <= n <= LARGEST_IMAGE)
    check(self.roundings, 'roundings', '1 or 2', lambda n: n in (1, 2))
    check(self.seed, 'seed', 'from 0 to below 2**31', lambda s: 0 <= s < 2**31)
    check_options(self, 'model_options', self.model)
    for name, allowed in cluster.problems(self):
      check(getattr(self, name), name, allowed, lambda _: False)
    check(self.writers, 'writers', f'some of {", ".join(WRITERS)}',
          lambda names: set(names) <= set(WRITERS))
    for name in self.writers:
      check(self.writers, 'writers', 'installed: pip install '
            f'{WRITERS[name]}', lambda _: importlib.util.find_spec(
              WRITERS[name]))
    check(self.profile, 'profile', 'two steps, rising from 0: 100:110',
          lambda text: not text or self._traced[0] < self._traced[1])

  @property
  def _traced(self) -> tuple[int, int]:
    """The first step to trace, and the first not to."""
    match = re.fullmatch(r'(\d+):(\d+)', self.profile)
    return (int(match[1]), int(match[2])) if match else (0, 0)

  def watch(self) -> dict[str, Any]:
    """Say who looks on: options of `trainer.train` that change no number."""
    return {'writers': self.writers,
            'profile': self._traced if self.profile else None,
            'max_nonfinite': self.max_nonfinite,
            'stuck_after': self.stuck_after}

  @property
  def seeds(self) -> range:
    """The seeds of the runs of each setting."""
    return range(self.seed, self.seed + self.num_seeds)

  def workers(self, num_workers: int | None = None) -> workers.Workers:
    """Say who computes; a single worker needs no backend of its own."""
    from experiments.engine import workers  # here: parsing needs no NumPy
    count = self.num_workers if num_workers is None else num_workers
    return workers.Workers(
      count, self.backend if count > 1 else 'vmap', self.lanes_at_once,
      is_reversed=self.rounding == 'reversed',
      allow_reshape=self.allow_reshape)

  def schedule(self, steps: int, every: int) -> schedule.Schedule:
    """Say how long, and how often to evaluate and record."""
    from experiments.engine import schedule  # here: parsing needs no NumPy
    return schedule.Schedule(steps, every, self.save_seconds)

  def pick(self, *names: str) -> dict[str, Any]:
    """Pick flags by name: what a part is defined by.

    Its numbers depend on them. How lanes are grouped, where data lie and when
    to save changes no number; the order of summation does.
    """
    return {name: getattr(self, name) for name in (*names, 'rounding')}

  def needs_images(self) -> bool:
    """Tell whether anything is trained on --dataset."""
    return True

  def check_examples(self, count: int) -> None:
    """Check the flags that depend on the number of training examples."""
    if hasattr(self, 'train_examples'):
      check(self.train_examples, 'train_examples',
            f'at most the {count} of {self.dataset}', lambda n: n <= count)


def check(value: Any, name: str, allowed: str, holds: Callable) -> None:
  """Raise UsageError, with the value and what is allowed, unless it holds."""
  if not holds(value):
    raise UsageError(f'--{name}={shown(value)}: must be {allowed}')


def check_together(config: Any, names: Sequence[str], relation: str,
                   holds: bool) -> None:
  """Raise UsageError unless flags fit together.

  To blame is the first of `names` that is not at its default, else the last.
  """
  if not holds:
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    bad = next((name for name in names
                if getattr(config, name) != defaults[name]), names[-1])
    text = lambda name: f'--{name}={shown(getattr(config, name))}'
    others = ', '.join(text(name) for name in names if name != bad)
    raise UsageError(f'{text(bad)} does not fit {others}: {relation}')


def check_values(config: Any) -> None:
  """Raise UsageError where a field is nothing that any flag may be.

  A number must be finite, and an integer fit into 32 bits; a list names nothing
  twice; and of a field with choices, it must be one of them.
  """
  for field in dataclasses.fields(config):
    value, is_list = getattr(config, field.name), type(field.default) is tuple
    items = value if is_list else (value,)
    if choices := field.metadata.get('choices'):
      check(value, field.name,
            f'{"some" if is_list else "one"} of {", ".join(choices)}',
            lambda _: set(items) <= set(choices) and len(items) > 0)
    check(value, field.name, 'finite', lambda _: all(
      math.isfinite(x) for x in items if isinstance(x, float)))
    check(value, field.name, 'below 2**31 in size', lambda _: all(
      abs(x) < 2**31 for x in items if isinstance(x, int)))
    check(value, field.name, 'different values, each once',
          lambda _: len({*items}) == len(items))


def options(config: Config, name: str = 'model_options') -> dict:
  """Read the sizes of a model; lists become tuples."""
  text = getattr(config, name)
  try:
    values = json.loads(text)
    return {k: tuple(v) if isinstance(v, list) else v
            for k, v in values.items()}
  except (ValueError, AttributeError) as error:
    raise UsageError(
      f'--{name}={text!r}: must be a JSON object such as {{"hidden": [32]}}'
    ) from error


def check_options(config: Config, name: str, model: str) -> None:
  """Raise UsageError where a flag has sizes that the network does not take."""
  try:
    model_options.check(model, options(config, name))
  except UsageError:
    raise
  except ValueError as error:
    raise UsageError(f'--{name}={getattr(config, name)!r}: {error}') from error


def shown(value: Any) -> str:
  """Write a value as on a command line.

  >>> shown((1, 2)), shown(0.5), shown('a b')
  ('1,2', '0.5', "'a b'")
  """
  if isinstance(value, tuple):
    return ','.join(map(str, value)) or "''"
  return repr(value)
