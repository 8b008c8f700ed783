"""Data sets that tests read and do not change, prepared once in a process."""

import atexit
import functools
import tempfile


@functools.cache
def folder() -> str:
  """Return a data folder that is kept until the process ends."""
  made = tempfile.TemporaryDirectory(prefix='gradiv_data_')
  atexit.register(made.cleanup)
  return made.name
