"""Several processes on one machine that compute together, for tests.

Each process has CPU devices of its own, and all of them are joined by
`jax.distributed`. The processes of one `Group` end together: when one fails,
or when the time is over, the others are killed.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]
# Seconds. Two processes that compile a small program take about ten.
TIMEOUT = 120.0

_JOIN = """
import sys
import jax
jax.distributed.initialize(
  sys.argv[1], num_processes=int(sys.argv[2]), process_id=int(sys.argv[3]))
sys.argv[1:] = sys.argv[4:]
"""


def run_script(
  script: str,
  num_processes: int,
  *,
  devices_each: int = 1,
  arguments: Sequence[str] = (),
  timeout: float = TIMEOUT,
) -> list[str]:
  """Run one Python program in several processes, and return what each wrote.

  Args:
    script: The program. jax is initialized before it starts, so that
      `jax.process_index()` tells the processes apart.
    num_processes: Number of processes.
    devices_each: Number of CPU devices of each process.
    arguments: What the program finds in ``sys.argv[1:]``.
    timeout: Seconds after which all processes are killed.

  Returns:
    Standard output and standard error of each process, as one text. Some of
    its lines may be jax's own.

  Raises:
    AssertionError: If a process fails, or if the time is over.
  """
  address = coordinator_address()
  commands = [
    [sys.executable, '-c', _JOIN + script, address, str(num_processes), str(i),
     *arguments] for i in range(num_processes)]
  with Group(commands, devices_each=devices_each) as group:
    return group.wait(timeout)


class Group:
  """Processes that are started together; a context manager that ends them.

  >>> with Group([[sys.executable, '-c', 'print(3)']]) as group:
  ...   group.wait()
  ['3\\n']

  Attributes:
    processes: The `subprocess.Popen` of each command.
  """

  def __init__(
    self, commands: Sequence[Sequence[str]], *, devices_each: int = 1,
    environment: Mapping[str, str] | None = None
  ) -> None:
    """Start one process for each command, from the root of the repository.

    `environment` is added to this one's.
    """
    environment = os.environ | dict(environment or {}) | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': str(devices_each),
      'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
      'NPROC': '32',  # as in conftest.py
      'PYTHONPATH': str(ROOT),
    }
    self._folder = tempfile.TemporaryDirectory(prefix='gradiv_processes_')
    self.processes = []
    for i, command in enumerate(commands):
      with self._written_by(i).open('w') as file:
        # In a session of its own, so that children are killed with it.
        self.processes.append(subprocess.Popen(
          command, cwd=ROOT, env=environment, stdout=file,
          stderr=subprocess.STDOUT, start_new_session=True))

  def __enter__(self) -> 'Group':
    return self

  def __exit__(self, *exception) -> None:
    for i in range(len(self.processes)):
      self.kill(i)
    self._folder.cleanup()

  def wait(self, timeout: float = TIMEOUT) -> list[str]:
    """Wait until all have ended well, and return what each wrote."""
    end = time.monotonic() + timeout
    while None in (codes := [process.poll() for process in self.processes]):
      if any(codes):
        self._fail('a process failed')
      if time.monotonic() > end:
        self._fail(f'not done after {timeout} s')
      time.sleep(0.05)
    if any(codes):
      self._fail('a process failed')
    return [self.output(i) for i in range(len(self.processes))]

  def output(self, i: int) -> str:
    """Return what process i has written so far."""
    return self._written_by(i).read_text(errors='replace')

  def kill(self, i: int) -> None:
    """Kill process i and its children, and wait until it has ended."""
    if self.processes[i].poll() is None:
      os.killpg(self.processes[i].pid, signal.SIGKILL)
    self.processes[i].wait()

  def _written_by(self, i):
    return pathlib.Path(self._folder.name) / str(i)

  def _fail(self, reason):
    texts = [f'--- process {i}, exit code {process.poll()}\n'
             + self.output(i)[-3000:]
             for i, process in enumerate(self.processes)]
    raise AssertionError('\n'.join([reason, *texts]))


def coordinator_address() -> str:
  """Return an address of this machine whose port is free."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{found.getsockname()[1]}'
