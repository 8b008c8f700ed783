"""Several processes that train one run together, on one machine or on many.

All of them run the same program. Process 0 alone writes, and whatever decides
how the program goes on (a signal, the clock, an error of process 0) is agreed
on, so that no process waits for one that went another way.
"""

import contextlib
import functools
import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.engine import signals

# Seconds without a sign of life after which a process counts as lost.
HEARTBEAT_SECONDS = 30
# Seconds to say goodbye to the others after an error.
_GOODBYE_SECONDS = 5.0
_LONGEST_TEXT = 1000
# Where processes show what they do.
_SHOWN = 'gradiv/shown'
# How XLA and gloo begin what they say of others; reading an array raises it as
# a ValueError.
_FROM_OTHERS = re.compile(
  '(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|ABORTED|UNAVAILABLE|INTERNAL|'
  'FAILED_PRECONDITION): ')


class ProcessLostError(Exception):
  """The processes cannot go on together: one of them is gone, or failed."""


def connect(coordinator_address: str | None = None,
            num_processes: int | None = None,
            process_id: int | None = None) -> None:
  """Join the other processes, before anything else is asked of JAX.

  Call it once in each process, with the same address and number. Without
  arguments, `jax.distributed` finds out by itself what the cluster has started.

  Args:
    coordinator_address: Host and port at which process 0 can be reached.
    num_processes: In all.
    process_id: Of this one, from 0.

  Raises:
    ProcessLostError: Where the others cannot be reached.
  """
  # It would take SIGTERM from us, see `signals`.
  if hasattr(jax.config, 'jax_enable_preemption_service'):
    jax.config.update('jax_enable_preemption_service', False)
  # On a CPU, two programs at once may take each other's messages; elsewhere
  # programs run in the order in which they are started.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  known = inspect.signature(jax.distributed.initialize).parameters
  timeouts = {name: HEARTBEAT_SECONDS for name in (
    'heartbeat_timeout_seconds', 'shutdown_timeout_seconds') if name in known}
  try:
    jax.distributed.initialize(
      coordinator_address, num_processes, process_id, **timeouts)
  except (ValueError, RuntimeError) as error:
    raise ProcessLostError(
      f'the processes of this run did not find together: {_line(error)}'
    ) from error


def count() -> int:
  """Return the number of processes."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
  """Tell whether this is process 0, which alone writes."""
  return count() == 1 or jax.process_index() == 0


def index() -> int:
  """Return the number of this process, from 0."""
  return jax.process_index() if count() > 1 else 0


def show(text: str) -> None:
  """Let the other processes see a line of text in place of the last one.

  They see it through the coordinator, even while collectives wait. Nothing
  happens where there are no others, or where it cannot be reached.
  """
  if count() > 1:
    with contextlib.suppress(Exception):
      _board().key_value_set(f'{_SHOWN}/{index()}', text, allow_overwrite=True)


def shown() -> dict[int, str]:
  """Return what each process has last shown; {} where that is not known."""
  found = {}
  if count() > 1:
    with contextlib.suppress(Exception):
      found = {int(key.rsplit('/', 1)[1]): text for key, text in
               _board().key_value_dir_get(_SHOWN)}
  return found


def _board():
  # JAX has no public name for what its own checkpoints use.
  return distributed.global_state.client


def by_first(work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
  """When all have come here, have process 0 do something; then all go on.

  Raises:
    Exception: What the work raises, in process 0.
    ProcessLostError: With the text of that error, in the others.
  """
  if count() == 1:
    work(*args, **kwargs)
    return
  wait()
  raised, text = None, b''
  if is_first():
    try:
      work(*args, **kwargs)
    except Exception as error:
      raised, text = error, f'{error}'.encode()[:_LONGEST_TEXT]
  sent = np.frombuffer(text.ljust(_LONGEST_TEXT, b'\0'), np.uint8)
  with watched():
    told = multihost_utils.broadcast_one_to_all(sent)
  if raised is not None:
    raise raised
  if text := np.asarray(told, np.uint8).tobytes().rstrip(b'\0'):
    raise ProcessLostError(f'process 0: {text.decode(errors="replace")}')


def wait() -> None:
  """Wait until all processes have come here."""
  largest(0)


def largest(*values: int) -> list[int]:
  """Return, for each value, the largest that a process has; all wait.

  >>> largest(3, 4)
  [3, 4]
  """
  with watched():
    return _read(_largest(values))


def check(stop: signals.Stop) -> None:
  """Raise `Interrupted` in all processes, if a signal has come to any."""
  if count() > 1:
    stop.hear(largest(stop.signum)[0])
  stop.check()


class Agreement:
  """What is agreed on between two scans; nobody waits for it.

  Devices work on a scan while the host prepares the next, so the answer is that
  to the call before. In one process it is immediate.
  """

  def __init__(self):
    """Begin with nothing asked for."""
    self._late = None

  def __call__(self, *values: int) -> list[int]:
    """Return, for each value, the largest of all at the call before."""
    if count() == 1:
      return list(values)
    late, self._late = self._late, _largest(values)
    return [0] * len(values) if late is None else _read(late)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Turn an error that a lost process causes in the others into words."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    if count() == 1 or not _FROM_OTHERS.match(str(error)):
      raise
    raise ProcessLostError(
      f'process {jax.process_index()} of {jax.process_count()} stops, as '
      f'another one is gone: {_line(error)}; what was saved is whole, and the '
      'same command goes on from there') from error


def leave(code: int) -> None:
  """End this process after an error, though others may not come to an end.

  JAX would wait for them. With one process, nothing happens here.
  """
  if count() == 1:
    return
  goodbye = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  goodbye.start()
  goodbye.join(_GOODBYE_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _largest(values) -> jax.Array | np.ndarray:
  mine = np.asarray(values, np.int32)
  if count() == 1:
    return mine
  sharding, largest_of = _programs()
  shape = (len(sharding.device_set), len(mine))
  return largest_of(jax.make_array_from_callback(
    shape, sharding, lambda index: mine[None]))


@functools.cache
def _programs():
  """Build the layout of one row a device, and the largest of all rows."""
  mesh = Mesh(np.array(jax.devices()), ('devices',))
  everywhere = NamedSharding(mesh, PartitionSpec())
  return (NamedSharding(mesh, PartitionSpec('devices')),
          jax.jit(lambda x: jnp.max(x, 0), out_shardings=everywhere))


def _read(x) -> list[int]:
  return np.asarray(x).tolist()


def _line(error: Exception) -> str:
  return ' '.join(str(error).split())[:300]
