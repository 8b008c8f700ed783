"""What defines a run, and which code ran it."""

from typing import Any

from experiments.report.markup import Raw, join, table, tag
from experiments.report.reading import Run


def shown(run: Run) -> Raw:
  """Write flags, versions, devices and the command."""
  flags = {name: x for name, x in flat(of_run(run)).items() if x}
  versions = {name: x for name, x in origin(run).items() if x}
  listed = lambda values: table(None, [
    (tag('code', name), tag('code', text)) for name, text in values.items()])
  return join(
    join(tag('h2', 'Configuration'), listed(flags)) if flags else None,
    join(tag('h2', 'Versions'), listed(versions)) if versions else None)


def of_run(run: Run) -> dict[str, Any]:
  """What defines a run: its flags, or what its checkpoint knows."""
  if run.config:
    return run.config['flags']
  return run.parts[0].defined_by if len(run.parts) == 1 else {}


def is_recorded(run: Run) -> bool:
  """Tell whether more is known of what defines a run than `fit` adds itself."""
  return bool(of_run(run).keys() - {'seed', 'num_workers'})


def origin(run: Run) -> dict[str, str]:
  """Which code ran, on what."""
  config = run.config
  if config:
    found = {'command': ' '.join(config.get('command', [])),
             'program': config.get('program'), 'commit': config.get('commit')}
    found |= config.get('versions', {})
    found['devices'] = ', '.join(config.get('devices', []))
  else:
    found = next((part.numerics for part in run.parts if part.numerics), {})
  return {name: str(x) for name, x in found.items() if x is not None}


def flat(values: dict[str, Any]) -> dict[str, str]:
  """Write each value as text.

  >>> flat({'sizes': [1, 2], 'name': '', 'rate': 0.5})
  {'sizes': '1, 2', 'name': '', 'rate': '0.5'}
  """
  text = lambda x: ', '.join(map(str, x)) if isinstance(x, list) else str(x)
  return {name: text(x) for name, x in values.items()}
