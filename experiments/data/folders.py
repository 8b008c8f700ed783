"""Where prepared data sets lie: `<data_dir>/<name>[/<config>]/<version>`.

The folders are TFDS's, and are found by what is in them, not by TFDS's classes:
a copy of any version serves, and looking never touches the network.
"""

import json
import os
import pathlib
import re
from typing import NamedTuple

_NAME = re.compile(
    r'(?P<name>\w+)(/(?P<config>\w[\w.\-]*))?(:(?P<version>\d+\.\d+\.\d+))?')
_VERSION = re.compile(r'\d+\.\d+\.\d+')


class DataUnavailableError(RuntimeError):
  """A data set cannot be had: what is missing, where, and what to do."""

  def __init__(self, missing: str, looked_in: os.PathLike | str, remedy: str):
    self.missing = missing
    self.looked_in = os.path.abspath(looked_in)
    self.remedy = remedy
    super().__init__(
        f'{missing}\n  looked in: {self.looked_in}\n  what to do: {remedy}')

  def __reduce__(self):
    # An exception of three arguments does not survive a process pool without.
    return type(self), (self.missing, self.looked_in, self.remedy)


class ArgumentError(ValueError):
  """An argument of `load` that no data set fits.

  Attributes:
    argument: Its name, as `load` has it.
    allowed: What it must be.
  """

  def __init__(self, argument: str, allowed: str):
    self.argument, self.allowed = argument, allowed
    super().__init__(f'{argument} {allowed}')

  def __reduce__(self):
    return type(self), (self.argument, self.allowed)


class Name(NamedTuple):
  """A name as TFDS writes it: name[/config][:version]."""

  name: str
  config: str | None
  version: str | None


def parse_name(name: str) -> Name:
  match = _NAME.fullmatch(name) if isinstance(name, str) else None
  if match is None:
    raise ArgumentError(
        'name',
        f"must be 'name', 'name/config' or 'name:1.2.3', got {name!r}")
  return Name(match['name'], match['config'], match['version'])


def resolve_data_dir(data_dir: os.PathLike | str | None) -> pathlib.Path:
  """Return the absolute folder of all data sets.

  The argument, or else TFDS_DATA_DIR as it is now (TFDS reads it on import
  only), or else TFDS's default.
  """
  if data_dir is None:
    data_dir = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  if not isinstance(data_dir, (str, os.PathLike)) or not os.fspath(data_dir):
    raise ArgumentError(
        'data_dir', f'must be a folder or None, got {data_dir!r}')
  if '://' in os.fspath(data_dir):
    raise ArgumentError(
        'data_dir', 'must be a local folder (records are read by position), '
        f'got {os.fspath(data_dir)!r}')
  path = pathlib.Path(os.path.abspath(os.path.expanduser(data_dir)))
  if path.exists() and not path.is_dir():
    raise ArgumentError('data_dir', f'must be a folder, and {path} is a file')
  return path


def find_prepared(name: Name, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Return the newest prepared version, or None.

  Unfinished preparations are called `incomplete.*` (TFDS) or `.preparing-*`
  (ours), never a bare version.
  """
  root = data_dir / name.name
  if name.config is None:
    folder = _newest(root, name.version)
    if folder is None and (config := _default_config(root)) is not None:
      folder = _newest(root / config, name.version)
    return folder
  return _newest(root / name.config, name.version)


def is_prepared(folder: pathlib.Path) -> bool:
  return ((folder / 'dataset_info.json').is_file()
          and (folder / 'features.json').is_file())


def _newest(folder: pathlib.Path, version: str | None) -> pathlib.Path | None:
  found = [path for path in _folders(folder)
           if _VERSION.fullmatch(path.name) and is_prepared(path)
           and version in (None, path.name)]
  as_numbers = lambda path: tuple(int(part) for part in path.name.split('.'))
  return max(found, key=as_numbers, default=None)


def _default_config(root: pathlib.Path) -> str | None:
  # TFDS notes the default of a set with several configurations here.
  try:
    noted = json.loads((root / '.config' / 'metadata.json').read_text())
    return _NAME.fullmatch(f'{root.name}/{noted["default_config_name"]}')[
        'config']
  except (OSError, ValueError, KeyError, TypeError):
    configs = [path.name for path in _folders(root) if _newest(path, None)]
    return configs[0] if len(configs) == 1 else None


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return [path for path in folder.iterdir() if path.is_dir()]
  except (FileNotFoundError, NotADirectoryError):
    return []
