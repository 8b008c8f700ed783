"""The `__main__` of every paper: flags, folder, study and exit code.

In the order of what they cost, so that whatever is wrong is said soon: flags,
the folder, the data, and only then the study, its imports and its shapes.
"""

import contextlib
import dataclasses
import gc
import io
import os
import pathlib
import pkgutil
import sys

from absl import flags as absl_flags

from experiments import holding
from experiments.common import cluster, description, flags, parsing

# Errors of data and of disks, by the modules that define them.
_ERRORS = (('experiments.data', 'DataUnavailableError'),
           ('experiments.engine.left_out', 'NonFiniteError'),
           ('experiments.engine.checkpoints', 'CheckpointError'),
           ('experiments.engine.processes', 'ProcessLostError'),
           ('experiments.engine.sealing', 'LogDamagedError'),
           ('experiments.engine.identity', 'OtherRunError'))
_SIGNAL = ('experiments.engine.signals', 'Interrupted')


def main(cls: type[flags.Config], study: str) -> None:
  """Parse the flags, run the study, and set the exit code.

  0 after a whole run; 2 for a bad flag; 1 for data or a disk that is not there
  and for another process that is gone; 130 after Ctrl-C and 143 after SIGTERM,
  with everything saved.

  Args:
    cls: The flags.
    study: 'package.module:Name' of a `study.Study`, imported when the flags
      have been checked.
  """
  with exit_codes(), _begun(cls, study) as config:
    if config.report:
      gc.disable()  # a report is short, and frees little
      from experiments.common import reporting  # here: see `parsing`
      reporting.report(pkgutil.resolve_name(study)(), config)
      return
    from experiments.common import inputs  # here: a bad flag needs no data
    inputs.check_data(config)
    made = pkgutil.resolve_name(study)()
    from experiments.common import running
    _keep_compiled(config)
    running.run(made, config, begin=lambda parts: _describe(
      config, study, parts))


def run(cls: type, work: str) -> None:
  """Parse the flags and work with them; set the exit code, as `main`.

  Args:
    cls: The flags.
    work: 'package.module:function' of the flags, imported when these have been
      checked.
  """
  with exit_codes(), _begun(cls, work) as config:
    pkgutil.resolve_name(work)(config)
    _describe(config, work)


@contextlib.contextmanager
def _begun(cls, program):
  """Parse the flags, check the folder, and hold it while the block runs."""
  config = parsing.parse(cls, sys.argv)
  folder = parsing.folder(cls, config.workdir)
  config = dataclasses.replace(config, workdir=str(folder))
  if getattr(config, 'report', False):
    description.check_owner(folder, program)
    if not (folder / 'config.json').exists():
      raise description.WorkdirError(
        f'--workdir={config.workdir!r} holds no run, as config.json is '
        'missing: run without --report')
    yield config
    return
  _connect(config)
  with contextlib.ExitStack() as stack:
    _by_first(description.check_folder, folder, program)
    _by_first(lambda: stack.enter_context(holding.hold(folder)))
    yield config


def _connect(config):
  """Join the other processes of this command, if there are any."""
  if hasattr(config, 'num_processes') and cluster.is_several(config):
    from experiments.engine import processes  # here: it imports JAX
    processes.connect(**cluster.arguments(config))


def _by_first(work, *args):
  """Do something in process 0, while the others wait."""
  processes = sys.modules.get('experiments.engine.processes')
  if processes is None:  # one process, so far without JAX
    work(*args)
  else:
    processes.by_first(work, *args)


def _keep_compiled(config):
  """Keep compiled programs for the next start."""
  import jax
  if config.compilation_cache:
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    jax.config.update('jax_compilation_cache_dir',
                      str(cache.expanduser() / 'gradiv' / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def _describe(config, program, parts=()):
  """Write `config.json`, with the names of the parts that are trained."""
  import jax
  folder = pathlib.Path(config.workdir)
  _by_first(
    description.write, folder, program, config, sys.argv,
    [f'{x.platform}: {x.device_kind}' for x in jax.devices()], parts)
  if not (folder / 'config.json').exists():
    raise description.WorkdirError(
      f'--workdir={config.workdir!r} is seen by process 0 alone: must be a '
      'folder that all processes share')


class Bearing:
  """A stream of messages that bears a full disk and a closed terminal."""

  def __init__(self, stream):
    """Wrap a stream, or None where there is none."""
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Write, or lose the message and go on."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Flush, or go on."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      self._stream.flush()

  def isatty(self) -> bool:
    """Say whether it is a terminal."""
    return self._stream is not None and self._stream.isatty()


@contextlib.contextmanager
def exit_codes():
  """Turn errors that a user can mend into a message and an exit code."""
  _fill_closed()
  sys.stderr = Bearing(sys.stderr)
  if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that knows no ±
    sys.stdout.reconfigure(errors='replace')
  try:
    yield
  except (absl_flags.Error, flags.UsageError) as error:
    _leave(error, 2)
  except description.WorkdirError as error:
    _leave(error, 1)
  except _imported(_SIGNAL) as stopped:
    _leave(f'{stopped}; the same command goes on from there',
           stopped.exit_code, stopped.alone)
  except KeyboardInterrupt:
    _leave('stopped by SIGINT', 130)
  except (OSError, *_imported(*_ERRORS)) as error:
    _leave(error, 1)


def _fill_closed():
  """Open /dev/null in place of standard streams that are closed.

  The next file that is opened would have their numbers otherwise, such as a
  log, and what XLA says on standard error would be written into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _imported(*errors: tuple[str, str]) -> tuple[type[Exception], ...]:
  """Look up exceptions; one whose module is not imported was not raised."""
  return tuple(getattr(sys.modules[module], name)
               for module, name in errors if module in sys.modules)


def _leave(message, code, alone=True):
  """End with a message; `alone` if other processes do not end, too."""
  print(message, file=sys.stderr, flush=True)
  processes = sys.modules.get('experiments.engine.processes')
  if processes is not None and alone:
    processes.leave(code)
  raise SystemExit(code) from None
