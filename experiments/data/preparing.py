"""Preparing what is not there yet, or saying within seconds why it cannot be.

TFDS tries a dead network for 205 seconds and names the cause last; here each
obstacle is looked for before anything is started, and all are told at once.
"""

import contextlib
import difflib
import importlib.util
import io
import os
import pathlib
import queue
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from experiments.data import folders

_EMBEDDED = ('digits', 'pydoc_topics')
_DEFAULT_HOST = 'storage.googleapis.com'
_PROBE_SECONDS = 5.0
_MAX_WINDOW = 4096
# No preparation of ours lasts this long: its process was killed.
_STALE_SECONDS = 3600.0


def is_embedded(name: folders.Name) -> bool:
  return name.name in _EMBEDDED


def pin_embedded(name: folders.Name) -> folders.Name:
  """Fill in the configuration and the version that this Python makes."""
  if name.name == 'digits':
    if name.config is not None:
      raise folders.ArgumentError(
          'name', "must be 'digits', it has no configurations, got "
          f"'digits/{name.config}'")
    return name._replace(version=name.version or '1.0.0')
  config = name.config or 'length64'
  match = re.fullmatch(r'length([1-9]\d*)', config)
  if match is None or int(match[1]) > _MAX_WINDOW:
    raise folders.ArgumentError(
        'name', "must be 'pydoc_topics' or 'pydoc_topics/length<n>' with n "
        f"from 1 to {_MAX_WINDOW}, got 'pydoc_topics/{config}'")
  version = name.version or '.'.join(map(str, sys.version_info[:3]))
  return name._replace(config=config, version=version)


def prepare_embedded(
    name: folders.Name, data_dir: pathlib.Path
) -> pathlib.Path:
  """Write a data set of ours, or take the one that another process wrote.

  It is written into a folder beside the place and renamed: a reader sees all
  of it or nothing, and of two writers the second finds the place taken.
  """
  target = data_dir.joinpath(*filter(None, name))
  if name.version != pin_embedded(name._replace(version=None)).version:
    raise folders.DataUnavailableError(
        f'{name.name} {name.version} is not there, and cannot be made here.',
        target, 'copy the folder from where it was made' + (
            '.' if name.config is None else f', or run Python {name.version}.'))
  what = '1,797 images' if name.config is None else '80 texts'
  print(f'preparing {name.name} ({what}, a few seconds) in {target}',
        file=sys.stderr, flush=True)
  try:
    _write_and_rename(name, data_dir, target)
  except ImportError as error:
    raise folders.DataUnavailableError(
        f'{name.name} is not prepared, and {error.name} is missing.', target,
        "pip install 'gradiv[experiments]'") from error
  except (OSError, RuntimeError) as error:  # array_record's is the second
    raise folders.DataUnavailableError(
        f'{name.name} is not prepared, and cannot be written: {error}.', target,
        'give a data_dir (or TFDS_DATA_DIR) with room, that you may write to.'
    ) from error
  return target


def _write_and_rename(name, data_dir, target) -> None:
  from experiments.data import embedded
  make = embedded.Digits if name.config is None else embedded.pydoc_topics(
      int(name.config.removeprefix('length')))
  data_dir.mkdir(parents=True, exist_ok=True)
  _remove_stale(data_dir)
  scratch = pathlib.Path(
      tempfile.mkdtemp(prefix=f'.preparing-{name.name}-', dir=data_dir))
  try:
    builder = make(data_dir=scratch, file_format='array_record')
    # TFDS reports in five lines and progress bars what takes a second.
    with contextlib.redirect_stdout(io.StringIO()), \
        contextlib.redirect_stderr(io.StringIO()):
      builder.download_and_prepare()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      os.rename(builder.data_dir, target)
    except OSError:
      if not folders.is_prepared(target):
        raise
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_stale(data_dir: pathlib.Path) -> None:
  for path in data_dir.glob('.preparing-*'):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_SECONDS:
        shutil.rmtree(path, ignore_errors=True)


def prepare_official(
    name: folders.Name, data_dir: pathlib.Path, *, download: bool
) -> pathlib.Path:
  """Let TFDS download and write a data set of its own."""
  import tensorflow_datasets as tfds
  _check_known(name, tfds)
  place = data_dir / name.name
  what = f'{name.name} is not prepared'
  if not download:
    raise folders.DataUnavailableError(
        f'{what}.', place, 'load it once with download=True, or copy the '
        f'folder {name.name} of a machine that has it to {data_dir}.')
  obstacles, remedies = _obstacles(name, data_dir, tfds)
  if obstacles:
    raise folders.DataUnavailableError(
        f'{what}, and cannot be: {"; ".join(obstacles)}.', place,
        '; '.join([*remedies, f'or copy the folder {name.name} of a machine '
                   f'that has it to {data_dir}.']))
  print(f'preparing {name.name} (download, then minutes to hours) in {place}',
        file=sys.stderr, flush=True)
  # TFDS too writes beside the place and renames.
  try:
    asked = {'config': name.config, 'version': name.version}
    builder = tfds.builder(
        name.name, data_dir=data_dir, file_format='array_record',
        **{key: value for key, value in asked.items() if value})
    builder.download_and_prepare()
  except Exception as error:  # Of a dozen kinds: whatever a download can do.
    prepared = folders.find_prepared(name, data_dir)
    if prepared is None:
      raise folders.DataUnavailableError(
          f'{what}, and preparing it failed: {error}', place,
          'see the cause above; load again to go on.') from error
    return prepared  # Another process was first.
  return pathlib.Path(builder.data_dir)


def _check_known(name: folders.Name, tfds) -> None:
  known = tfds.list_builders(with_community_datasets=False)
  if name.name in known:
    return
  near = difflib.get_close_matches(
      name.name.lower(), [*_EMBEDDED, *known], n=4, cutoff=0.5)
  hint = f'; near it: {", ".join(near)}' if near else ''
  raise folders.ArgumentError(
      'name', f'must be a data set of TFDS, or one of {", ".join(_EMBEDDED)}, '
      f'got {name.name!r}{hint}')


def _obstacles(name, data_dir, tfds) -> tuple[list[str], list[str]]:
  obstacles, remedies = [], []
  missing = [module for module in ('tensorflow', 'importlib_resources')
             if importlib.util.find_spec(module) is None]
  if missing:
    obstacles.append(
        f'TFDS needs {" and ".join(missing)} to prepare (not to read) it')
    remedies.append("pip install 'gradiv[prepare]'" + (
        '' if 'importlib_resources' not in missing else ' importlib_resources'))
    if 'importlib_resources' in missing:
      return obstacles, remedies  # Without it TFDS cannot even name the hosts.
  cls = tfds.builder_cls(name.name)
  manual = data_dir / 'downloads' / 'manual'
  present = os.listdir(manual) if manual.is_dir() else []
  if cls.MANUAL_DOWNLOAD_INSTRUCTIONS and not present:
    obstacles.append(f'its files must be fetched by hand into {manual}')
    remedies.append(' '.join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split()))
  urls = [urllib.parse.urlsplit(url) for url in cls.url_infos or ()]
  needed = [url for url in urls if os.path.basename(url.path) not in present]
  if needed or not urls:
    host = needed[0].hostname if needed else _DEFAULT_HOST
    if (reason := network_fault(host)) is not None:
      obstacles.append(f'{host} cannot be reached ({reason})')
      remedies.append('connect this machine and load again')
  return obstacles, remedies


def network_fault(host: str, timeout: float = _PROBE_SECONDS) -> str | None:
  """Return why a host cannot be reached within the timeout, or None."""
  proxies = urllib.request.getproxies()
  proxy = proxies.get('https') or proxies.get('http')
  port = 443
  if proxy and not urllib.request.proxy_bypass(host):
    parts = urllib.parse.urlsplit(proxy if '//' in proxy else f'//{proxy}')
    host, port = parts.hostname, parts.port or 80
  answers = queue.SimpleQueue()

  def probe():
    try:
      socket.create_connection((host, port), timeout=timeout).close()
      answers.put(None)
    except OSError as error:
      answers.put(str(error))

  # In a thread, for looking up a name has no timeout of its own.
  threading.Thread(target=probe, daemon=True).start()
  try:
    return answers.get(timeout=timeout)
  except queue.Empty:
    return f'no answer within {timeout:g} seconds'
