"""Draws the figures of a study that are not up to date, and its page.

As `make` does: a figure is drawn where it is missing or was changed, and all of
them where records, flags, code or the versions of what draws have changed. The
page that holds them, `report.html`, is written anew likewise.
"""

import contextlib
import hashlib
import json
import pathlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

from experiments import report, versions
from experiments.common import parsing
from experiments.engine import records

# What numbers and pictures depend on, besides our own code.
_PACKAGES = ('matplotlib', 'numpy', 'pandas', 'scipy', 'xarray')
_ALL_CLAIMS = 'claims'  # the figure that every study has
_PAGE, _CONFIG = 'report.html', 'config.json'


class Figures:
  """The figures of one report.

  Attributes:
    due: The names of those to draw.
  """

  def __init__(self, study: Any, config: Any, outcome: Any):
    """Find out which figures are up to date."""
    self._config, self._outcome = config, outcome
    self._folder = pathlib.Path(config.workdir)
    self._draws = dict(study.figures)
    if outcome.claims:
      self._draws[_ALL_CLAIMS] = 'experiments.common.plots:forest_of'
    self._source = _source(study, config, outcome)
    stored = {}
    with contextlib.suppress(OSError, ValueError):
      stored = json.loads(self._record.read_text())
    same = stored.get('source') == self._source
    self._hashes = stored['figures'] if same else {}
    self._page = stored.get('page') if same else None
    self.due = [name for name in self._draws if name not in self._hashes
                or self._hashes[name] != self._hash(name)]

  def draw(self, name: str) -> str | None:
    """Draw a figure; return the hash of its file, None where there is none."""
    from experiments.common import plots  # here: matplotlib takes its time
    make = pkgutil.resolve_name(self._draws[name])
    figure = make(self._config, self._outcome.reduced, self._outcome.claims)
    if figure is None:
      return None
    plots.save(figure, self._path(name))
    return self._hash(name)

  def keep(self, drawn: Sequence[str | None]) -> list[str]:
    """Note what was drawn of `due`; say where all figures are, line by line."""
    self._hashes |= dict(zip(self.due, drawn))
    self._note()
    return [f'figure: {self._path(name)}'
            f'{"" if name in self.due else " (up to date)"}'
            for name in self._draws if self._hashes[name]]

  def write_page(self) -> None:
    """Write the page, unless nothing that it shows has changed."""
    if self.due or self._page is None or self._page != self._page_hashes():
      report.write_at_end(self._folder)
      self._page = self._page_hashes()
      self._note()
    else:
      print(f'report: {self._folder / _PAGE} (up to date)', file=sys.stderr)

  def _page_hashes(self):
    return [_hash_of(self._folder / name) for name in (_PAGE, _CONFIG)]

  def _note(self):
    records.write_whole(self._record, {
      'source': self._source, 'figures': self._hashes, 'page': self._page})

  @property
  def _record(self):
    return self._folder / 'figures.json'

  def _path(self, name):
    return self._folder / f'{name}.png'

  def _hash(self, name):
    return _hash_of(self._path(name))


def _hash_of(path):
  return (hashlib.sha256(path.read_bytes()).hexdigest() if path.exists()
          else None)


def _source(study, config, outcome):
  """Hash all that the figures of a study depend on."""
  text = json.dumps([
    study.name, parsing.of_the_run(config), outcome.digest, versions.sources(),
    versions.packages(_PACKAGES)], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
