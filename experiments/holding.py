"""One run a folder: a lock that names who holds it.

The lock is the operating system's, on a file in the folder: it ends with the
process that holds it, however that ends. What is written in the file only says
who it is. A file that names somebody and is not locked was left by a process
that was killed.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

FILE = '.lock'
# File systems without locks, such as some that are shared over a network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


class InUseError(OSError):
  """Another process works in the folder."""


@contextlib.contextmanager
def hold(folder: str | os.PathLike) -> Iterator[None]:
  """Keep every other process out of a folder while the block runs.

  >>> import tempfile
  >>> folder = tempfile.mkdtemp()
  >>> with hold(folder):
  ...   try:
  ...     hold(folder).__enter__()
  ...   except InUseError as error:
  ...     print('in use by process' in str(error))
  True

  Args:
    folder: Exists, and can be written.

  Raises:
    InUseError: At once, if another process holds it.
  """
  path = pathlib.Path(folder) / FILE
  file = _lock(path)
  try:
    if before := _read(file):
      _say(f'{path.parent} was left by {before}, which is gone: going on')
    _write(file, f'process {os.getpid()} on {socket.gethostname()}')
    yield
  finally:
    path.unlink(missing_ok=True)
    os.close(file)


def _lock(path):
  """Open the file and lock it, at once or not at all."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = _read(file) or 'another process'
      os.close(file)
      raise InUseError(
        f'{path.parent} is in use by {holder}: wait for it, stop it, or use '
        'another folder') from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      _say(f'{path.parent} cannot be locked ({error.strerror}): see to it that '
           'no other run uses it')
      return file
    # Another process may have ended and removed the file since it was opened.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file), os.stat(path)):
        return file
    os.close(file)


def _read(file):
  return os.pread(file, 300, 0).decode(errors='replace').strip()


def _write(file, text):
  # A full disk does not stop a run: the lock holds without a name.
  with contextlib.suppress(OSError):
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _say(text):
  print(text, file=sys.stderr, flush=True)
