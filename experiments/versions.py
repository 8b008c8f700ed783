"""Which code runs: the commit, and the packages that it uses."""

import functools
import hashlib
import pathlib
import platform
import subprocess
from importlib import metadata

PACKAGES = ('gradiv', 'jax', 'jaxlib', 'numpy', 'flax', 'optax',
            'orbax-checkpoint', 'tensorflow-datasets')
ROOT = pathlib.Path(__file__).parents[1]


@functools.cache  # nobody changes what it returns
def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
  """Return the versions of Python and of the packages; None: not installed."""
  found: dict[str, str | None] = {'python': platform.python_version()}
  for name in names:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = None
  return found


@functools.cache
def commit() -> str | None:
  """Return the git commit of this code, '-dirty' where files differ from it."""
  if not (ROOT / '.git').exists():
    return None
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'],
      cwd=ROOT, capture_output=True, text=True, check=True, timeout=5
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


@functools.cache
def sources(*places: str) -> str:
  """Hash the code in files and folders below the root, by default all of it."""
  found = hashlib.sha256()
  for place in places or ('experiments', 'gradiv'):
    path = ROOT / place
    files = [path] if path.is_file() else sorted(
      x for x in path.rglob('*') if x.suffix in ('.py', '.mplstyle'))
    if not files:
      raise FileNotFoundError(f'{path} holds no code')
    for file in files:
      found.update(f'{file.relative_to(ROOT)}\n'.encode())
      found.update(file.read_bytes())
  return found.hexdigest()
