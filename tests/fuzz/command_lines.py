"""Draws command lines of the papers, and takes them as far as they go."""

import contextlib
import dataclasses
import io
import pathlib
import runpy
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from experiments.common import flags, parsing, running
from tests.soak.binaries import BINARIES

WHOLE = ('0', '1', '2', '3', '4', '8', '16', '-1', '10000', '2147483648',
         '1' + 30 * '0', '1.5', 'nan', 'abc', '')
REAL = ('0', '0.5', '1', '0.001', '2', '-1', '-0.0', '1e-300', '1e308', 'nan',
        'inf', '-inf', 'abc', '')
TEXT = {
  'dataset': ('digits', 'pydoc_topics', 'cifr10', '', '../x', 'digits/8'),
  'profile': ('0:1', '2:1', '1:1', 'x', ':'),
  'coordinator_address': ('host:1', 'host', ':'),
  'noisy_label_key': ('label', 'none such'),
}
JSON = ('{}', '{"hidden": [4]}', '{"hidden": []}', '{"hidden": [0]}',
        '{"hidden": [-1]}', '{"hidden": "a"}', '{"hidden": 4}',
        '{"hidden": [1.5]}', '{"hidden": [null]}', '{"depth": 3}', '[]', 'null',
        'NaN', '{', '3', '{"width": 4, "heads": 3, "layers": 1}',
        '{"embed": 0, "hidden": 3}')
# Folders; what no paper's numbers depend on; and what starts other processes.
_LEFT_OUT = ('workdir', 'data_dir', 'report', 'num_processes', 'study')
# More than this is not built here: a valid line may ask for anything.
_LARGEST = 100


@dataclasses.dataclass(frozen=True)
class Line:
  """A small command line of a paper, and flags that were drawn for it."""

  paper: str
  drawn: tuple[tuple[str, str], ...]

  @property
  def flags(self) -> list[str]:
    """All flags, the drawn ones last: they count."""
    return [*BINARIES[self.paper].flags,
            *(f'--{name}={value}' for name, value in self.drawn)]

  def __repr__(self):
    return f'{self.paper} ' + ' '.join(
      f'--{name}={value!r}' for name, value in self.drawn)


@st.composite
def lines(draw, cls_of) -> Line:
  """Draw a line; `cls_of` has the dataclass of flags of each paper."""
  paper = draw(st.sampled_from(sorted(cls_of)))
  fields = {field.name: field for field in parsing.declared(cls_of[paper])
            if field.name not in _LEFT_OUT}
  names = draw(st.lists(
    st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True))
  return Line(paper, tuple((name, draw(_values(fields[name])))
                           for name in names))


def _values(field) -> st.SearchStrategy[str]:
  """Draw the text of a flag: right, at the border, wrong, of another type."""
  if isinstance(field.default, tuple):
    kind = type(field.default[0]) if field.default else str
    one = st.sampled_from(_pool(field, kind))
    rising = st.sampled_from(('1,2', '2,4', '4,8,16', '0.1,0.2', '0,1', '2,1'))
    return st.lists(one, max_size=3).map(','.join) | rising
  return st.sampled_from(_pool(field, type(field.default)))


def _pool(field, kind):
  if choices := field.metadata['choices']:
    return (*choices, 'nonsense', '')
  if field.name.endswith('model_options'):
    return JSON
  return {int: WHOLE, float: REAL, bool: ('true', 'false', 'maybe', ''),
          str: TEXT.get(field.name, ('', 'nonsense'))}[kind]


class Checked(Exception):  # noqa: N818 (no error: how a line that is right ends)
  """All checks have passed; there is nothing more to see without training."""


def follow(line: Line, folder: pathlib.Path, results: str) -> tuple[int, str]:
  """Run a line in this process, with made-up results in place of training.

  Args:
    line: The line.
    folder: For the run, new; beside it lie the data.
    results: 'plain', or 'diverged' from a step on.

  Returns:
    The exit code, and what was written to stderr.
  """
  argv = [line.paper, *line.flags, f'--workdir={folder}',
          f'--data_dir={folder.parent / "data"}', '--nocompilation_cache']
  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    enter(mock.patch.object(sys, 'argv', argv))
    enter(mock.patch.object(running, '_run_stage', _made_up(results)))
    enter(mock.patch.object(running, '_plan', _plan(running._plan)))
    enter(contextlib.redirect_stdout(io.StringIO()))
    # `cli` wraps the stream and leaves it so.
    enter(mock.patch.object(sys, 'stderr', io.StringIO()))
    said = sys.stderr
    enter(warnings.catch_warnings())
    # It has been imported before, for its flags.
    warnings.filterwarnings('ignore', '.* found in sys.modules', RuntimeWarning)
    try:
      runpy.run_module(BINARIES[line.paper].module, run_name='__main__')
      return 0, said.getvalue()
    except SystemExit as end:
      return end.code, said.getvalue()
    except Checked:
      return 0, said.getvalue()


def _plan(plan):
  """Plan no run that is too large to be planned in a moment."""
  def small(study, config, *rest):
    if _largest(config) > _LARGEST:
      raise Checked
    return plan(study, config, *rest)

  return small


def _largest(config: flags.Config) -> float:
  values = [x for field in parsing.declared(type(config))
            for x in np.ravel(getattr(config, field.name))
            if not isinstance(x, str) and field.name not in (
              'seed', 'train_examples', 'eval_batch_size', 'max_steps')]
  return max(map(float, values))


def _made_up(results: str):
  """Return what stands in for training a stage."""
  def run_stage(stage, config, workdir, stop, board) -> dict[str, Any]:
    plans = {part.name: part.plan() for part in stage}
    if not all(isinstance(x, xr.Dataset) for x in plans.values()) or any(
        getattr(part, 'finish', None) for part in stage):
      raise Checked  # nobody knows the shapes of what is computed at the end
    return {name: _filled(x, results) for name, x in plans.items()}

  return run_stage


def _filled(plan: xr.Dataset, results: str) -> xr.Dataset:
  """Fill a plan with numbers that fall along a run."""
  rng = np.random.default_rng(0)

  def fill(x):
    values = rng.uniform(0.5, 1, x.shape)
    if 'step' in x.dims:
      axis = x.dims.index('step')
      values = -np.sort(-values, axis)
      if results == 'diverged':
        np.moveaxis(values, axis, 0)[1:] = np.nan
    return x.copy(data=values)

  return plan.map(fill)
