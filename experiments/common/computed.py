"""Parts of a study that are computed without the trainer."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from experiments.common import blocks
from experiments.engine import processes, records, signals


@dataclasses.dataclass(frozen=True)
class Computed:
  """A computation of its own, whose JSON result is kept whole.

  Attributes:
    name: Of its file below the workdir, without `.json`.
    compute: Takes a `signals.Stop` to ask now and then; returns what JSON can
      hold.
    defined_by: All that the numbers depend on.
  """

  name: str
  compute: Callable[[signals.Stop], Any]
  defined_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def check(self) -> None:
    """There are no shapes to check."""

  def plan(self) -> None:
    """Nothing is known before it is computed."""

  @property
  def size(self) -> int:
    """Nothing is known of its steps."""
    return 0

  def missing(self, workdir: pathlib.Path,
              allow_changed: Collection[str] = ()) -> str:
    """Say what is not finished; empty where nothing is missing.

    Raises:
      OtherRunError: Where the result is one by another definition.
    """
    path = workdir / f'{self.name}.json'
    if not path.exists():
      return f'{path} is missing'
    blocks.check_definition(records.read_whole(path)['defined_by'],
                            self._definition, path, allow_changed)
    return ''

  def run(self, workdir: pathlib.Path, stop: signals.Stop,
          allow_changed: Collection[str] = (),
          watch: Mapping[str, Any] | None = None) -> None:
    """Compute what is not there."""
    if self.missing(workdir, allow_changed):
      try:
        result = self.compute(stop)  # alike in all processes
      except signals.Interrupted as stopped:
        raise signals.Interrupted(
          stopped.signum, f'what was finished is saved, and {self.name} begins '
          'anew') from None
      processes.by_first(records.write_whole, workdir / f'{self.name}.json', {
        'defined_by': self._definition, 'result': result})

  @property
  def _definition(self) -> dict[str, Any]:
    return json.loads(json.dumps(dict(self.defined_by)))

  def read(self, workdir: pathlib.Path) -> Any:
    """Read the result."""
    return records.read_whole(workdir / f'{self.name}.json')['result']
