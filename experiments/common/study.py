"""A study: what a paper writes.

Parts are trained, records become labeled arrays, claims judge. There are two
programs for it: `running` trains what is missing and then shows everything;
`reporting` shows what a finished run has recorded. What is here, and what a
paper's study imports, needs neither JAX nor matplotlib.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import pathlib
import pkgutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from experiments.common import claims as claims_lib, tables

if TYPE_CHECKING:
  from experiments.engine import signals

ROUNDINGS = ('', 'reversed')

Watch = Mapping[str, Any]  # options of `trainer.train` that change no number


class Part(Protocol):
  """What is done at once and then read: see `parts`, `computed`, `derived`."""

  name: str

  @property
  def size(self) -> int:
    """Count the steps of all lanes; 0 where there are none."""

  def missing(self, workdir: pathlib.Path,
              allow_changed: Collection[str] = ()) -> str:
    """Say what is not finished; empty where nothing is missing."""

  def check(self) -> None:
    """Raise ValueError where shapes do not fit; trains nothing."""

  def plan(self) -> Any:
    """Return what `read` will, with the right shapes, before there is any."""

  def run(self, workdir: pathlib.Path, stop: signals.Stop,
          allow_changed: Collection[str] = (), watch: Watch | None = None,
          ) -> None:
    """Do what is not done yet; `watch` is what `Config.watch` returns."""

  def read(self, workdir: pathlib.Path) -> Any:
    """Read the results from disk, of which nothing may be missing."""

  def digest(self, workdir: pathlib.Path) -> str:
    """Hash what `read` reads."""


# What the earlier parts have found, by their names.
Done = Mapping[str, Any]


class Study(abc.ABC):
  """What a paper writes.

  Attributes:
    name: Of the paper's folder and command.
    title: Of the paper, with its authors and year.
    link: To the paper.
    command: What reproduces it, such as 'make demo'.
    sentence: What the reproduction found, in one sentence.
    setup: What is trained, on which data: a paragraph for docs/papers.md.
    task: 'package.module:Name' of what `prepare` makes of the flags. It is
      imported then, as a report needs neither data nor a network.
    pictures: The captions of the figures that docs/papers.md shows.
    figures: By file name, 'package.module:function' of what draws it from
      (config, reduced, claims), or returns None where there is nothing to draw.
      It is imported then, as matplotlib takes its time.
  """

  name: str
  title: str
  link: str
  command: str = ''
  sentence: str = ''
  setup: str = ''
  task: str = ''
  pictures: Mapping[str, str] = {}
  figures: Mapping[str, str] = {}

  def prepare(self, config: Any) -> Any:
    """Load the data and build the network; raises UsageError on bad flags."""
    return pkgutil.resolve_name(self.task)(config) if self.task else None

  @abc.abstractmethod
  def stages(self, config: Any, task: Any, done: Done
             ) -> Iterable[Sequence[Part]]:
    """Yield groups of parts; those of a group do not need one another.

    A generator: by the time that it is asked for the next group, `done` holds
    the results of all earlier ones. `task` is what `prepare` returned, or None
    where nothing is trained.
    """

  @abc.abstractmethod
  def reduce(self, config: Any, done: Done) -> Any:
    """Reduce the results to what claims, tables and figures show."""

  def summarize(self, config: Any, reduced: Any) -> Any:
    """Return the numbers to write to `summary.json`."""
    del config
    return reduced

  @abc.abstractmethod
  def claims(self, config: Any, reduced: Any) -> Iterable[claims_lib.Claim]:
    """Judge the claims."""

  def tables(self, config: Any, reduced: Any, summary: Any
             ) -> Iterable[tables.Table]:
    """Lay the results out; the table of claims is added by `showing`.

    `summary` is what `summarize` returned.
    """
    return ()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a study found.

  Attributes:
    reduced: Of the first rounding.
    claims: All claims.
    digest: A hash of the records that all of this follows from.
  """

  reduced: Any
  claims: list[claims_lib.Claim]
  digest: str = ''


def roundings(config: Any) -> list[Any]:
  """Return the flags of each rounding; the first is the run itself."""
  return [dataclasses.replace(config, rounding=rounding)
          for rounding in ROUNDINGS[:config.roundings]]


def folder_of(config: Any) -> pathlib.Path:
  """Return the folder of a rounding's records."""
  return pathlib.Path(config.workdir) / config.rounding


def judged(study: Study, config: Any, done: Done, digests: Mapping[str, str]
           ) -> Outcome:
  """Reduce the results of a rounding and judge the claims.

  Args:
    study: The paper's.
    config: The flags of the rounding.
    done: The results of all parts.
    digests: Hashes of what they were read from, by part.
  """
  reduced = study.reduce(config, done)
  text = '\n'.join(f'{name} {x}' for name, x in sorted(digests.items()))
  return Outcome(reduced, list(study.claims(config, reduced)),
                 hashlib.sha256(text.encode()).hexdigest())


def joined(outcomes: Sequence[Outcome]) -> Outcome:
  """Give the claims of the first rounding the intervals of the second."""
  first, *others = outcomes
  for other in others:
    first = dataclasses.replace(
      first, claims=claims_lib.joined(first.claims, other.claims),
      digest=f'{first.digest} {other.digest}')
  return first
