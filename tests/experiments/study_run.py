"""A small study that all tests of a class share, and what each must pass."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import tempfile

import numpy as np
from PIL import Image

from experiments.common import reporting, running
from experiments.engine import signals


def run(study, config, *, is_report=False):
  """Runs or reports a study; returns the outcome and what it printed."""
  with contextlib.redirect_stdout(io.StringIO()) as out:
    outcome = (reporting.report(study, config) if is_report else
               running.run(study, config, stop=signals.Stop()))
  return outcome, out.getvalue()


class StudyRun:
  """Runs `study` with the flags `small`; to mix into a test case.

  Attributes:
    study: The paper's.
    small: Its flags.
    folder: Holds the workdir, 'run', and the data.
    config: The flags with these folders.
    outcome: What the run found.
    printed: What it printed.
    summary: What it wrote to `summary.json`.
  """

  study = None
  small = None

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = dataclasses.replace(
      cls.small, workdir=str(cls.folder / 'run'),
      data_dir=str(cls.folder / 'data'))
    cls.before()
    cls.outcome, cls.printed = run(cls.study, cls.config)
    cls.summary = json.loads((cls.folder / 'run/summary.json').read_text())

  @classmethod
  def before(cls):
    """Prepares what the run needs."""

  def records(self, folder='run'):
    """Returns when each record was written, by its path."""
    root = self.folder / folder
    return {path.relative_to(root): path.stat().st_mtime_ns
            for path in root.rglob('*.json*')
            if path.stem not in ('claims', 'figures', 'summary')}

  def look_again(self, **changed):
    """Runs other flags on a copy; fails where that adds or changes a record."""
    copy = pathlib.Path(self.enterContext(
      tempfile.TemporaryDirectory(dir=self.folder)))
    shutil.copytree(self.folder / 'run', copy, dirs_exist_ok=True)
    outcome, _ = run(self.study, dataclasses.replace(
      self.config, workdir=str(copy), **changed))
    self.assertEqual(self.records(copy.name), self.records())
    return outcome

  def figures(self):
    """Names the figures that the flags ask for."""
    return {*self.study.figures, 'claims'}

  def test_figures(self):
    paths = list((self.folder / 'run').glob('*.png'))
    self.assertEqual({path.stem for path in paths}, self.figures())
    for path in paths:
      with Image.open(path) as image:
        self.assertGreater(np.asarray(image.convert('L')).std(), 5)

  def test_again_nothing_is_trained(self):
    """Neither by the same command nor by a report."""
    stamps = self.records()
    self.assertTrue(stamps)
    for is_report in (False, True):
      again, _ = run(self.study, self.config, is_report=is_report)
      self.assertEqual(again.claims, self.outcome.claims)
      self.assertEqual(
        json.loads((self.folder / 'run/summary.json').read_text()),
        self.summary)
    self.assertEqual(self.records(), stamps)
