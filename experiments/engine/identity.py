"""What a run is: the configuration that a folder belongs to."""

import json
import os
import pathlib
from collections.abc import Collection

from experiments import versions

# These change how many devices there are, or what is written down.
_HARMLESS = ('--xla_force_host_platform_device_count', '--xla_dump')


class OtherRunError(ValueError):
  """The folder holds a run of another configuration."""


def check_no_study(workdir: pathlib.Path) -> None:
  """Raise OtherRunError where the folder holds the run of a paper's command."""
  try:
    config = json.loads((workdir / 'config.json').read_text())
  except (OSError, ValueError):
    return
  # Some other config.json may be that of the user.
  if isinstance(config, dict) and {'program', 'flags', 'parts'} <= {*config}:
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run of {config["program"]} '
      '(config.json): must be a folder of its own')


def check_layout(stored: dict, now: dict, workdir: pathlib.Path) -> None:
  """Raise OtherRunError where a run was begun on other devices.

  Args:
    stored: `Workers.layout` of the run in `workdir`.
    now: That of this run.
    workdir: For the message.
  """
  if stored != now:
    words = [', '.join(f'{name}={value}' for name, value in layout.items())
             for layout in (stored, now)]
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run with {words[0]}; now there are '
      f'{words[1]}, and sums are rounded otherwise: pass --allow_reshape (in '
      'Python, allow_reshape=True in Workers) to go on all the same')


def check_config(stored: dict, wanted: dict, workdir: pathlib.Path,
                 allow_changed: Collection[str] = ()) -> None:
  """Raise OtherRunError where what is stored is of another configuration.

  Args:
    stored: The configuration of what `workdir` holds.
    wanted: The configuration of this run.
    workdir: For the message.
    allow_changed: Names whose values may differ.
  """
  wanted = json.loads(json.dumps(wanted))
  changed = [
    f'{name}: {stored.get(name)!r} there, {wanted.get(name)!r} now'
    for name in sorted(stored.keys() | wanted.keys())
    if stored.get(name) != wanted.get(name) and name not in allow_changed
  ]
  if changed:
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run of another '
      f'configuration ({"; ".join(changed)}): pass the same flags (in '
      'Python, the same config) to go on with it, or another --workdir'
    )


def numerics() -> dict[str, str | None]:
  """Return what the last bits of a run depend on, besides its configuration."""
  import jax  # here: to compare what is stored needs none
  installed = versions.packages()
  flags = sorted(flag for flag in os.environ.get('XLA_FLAGS', '').split()
                 if not flag.startswith(_HARMLESS))
  return {
    'commit': versions.commit(),
    **{name: installed[name] for name in ('jax', 'jaxlib', 'optax', 'flax')},
    'device': jax.devices()[0].device_kind,
    'x64': str(jax.config.jax_enable_x64),
    'matmul_precision': str(jax.config.jax_default_matmul_precision),
    'xla_flags': ' '.join(flags)}


def check_numerics(stored: dict, workdir: pathlib.Path,
                   allow_changed: Collection[str] = (),
                   names: Collection[str] | None = None) -> None:
  """Raise OtherRunError where a run would not go on to the last bit.

  Args:
    stored: `numerics` of the run in `workdir`.
    workdir: For the message.
    allow_changed: Names whose values may differ.
    names: Those to compare; by default all.
  """
  now = numerics()
  changed = [name for name in (now if names is None else names)
             if stored.get(name) != now[name] and name not in allow_changed]
  if changed:
    lines = [f'  {name}: stored {stored.get(name)!r}, now {now[name]!r}'
             for name in changed]
    raise OtherRunError('\n'.join([
      f'workdir={str(workdir)!r} holds a run that was begun otherwise, and '
      'numbers may differ:', *lines,
      'begin anew in another --workdir, or go on all the same by '
      f'--allow_changed={",".join(changed)}']))
