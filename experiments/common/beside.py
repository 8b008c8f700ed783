"""Does several jobs in two processes, where that is safe.

A process is forked, which must not be done to one with threads at work, such as
those of JAX, or on macOS, whose libraries do not bear it. There, one job is
done after the other.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

T = TypeVar('T')
_AT_ONCE = 2
_jobs: Sequence[Callable] = ()  # what forked processes find


def each(jobs: Sequence[Callable[[], T]],
         meanwhile: Callable[[], object] = lambda: None) -> list[T]:
  """Return what the jobs return, in their order.

  Args:
    jobs: Functions that do not need one another. Where they run in another
      process, what they change there is lost.
    meanwhile: What this process does.

  >>> each([lambda: 1, lambda: 2])
  [1, 2]
  """
  global _jobs
  pool = _pool(len(jobs)) if jobs and _is_safe() else None
  if pool is None:
    meanwhile()
    return [job() for job in jobs]
  _jobs = jobs
  with pool:
    found = [pool.submit(_do, i) for i in range(len(jobs))]
    meanwhile()
    return [job.result() for job in found]


def _pool(num_jobs):
  """Return the processes; None where the system has no semaphores for them."""
  forks = multiprocessing.get_context('fork')
  try:
    return futures.ProcessPoolExecutor(
      min(_AT_ONCE, num_jobs), forks, _leave_signals)
  except (OSError, NotImplementedError):  # as without /dev/shm
    return None


def _leave_signals():
  """Leave Ctrl-C to the process that waits for the jobs."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _do(i):
  return _jobs[i]()


def cores() -> int:
  """Return how many processes may run at once here; 1 where that is unknown."""
  return len(os.sched_getaffinity(0)) if sys.platform == 'linux' else 1


def _is_safe():
  return (cores() > 1 and 'jax' not in sys.modules
          and threading.active_count() == 1)
