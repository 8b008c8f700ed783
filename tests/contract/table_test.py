"""The table holds every public transformation, weighting, and number."""

import inspect
import pkgutil
import types
import typing

import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import meshes, weightings
from tests.contract import table


def public_functions(returns):
  """Find the public functions that are annotated to return a class.

  Returns:
    By its shortest name, each function once.
  """
  modules, found = [gradiv], {}
  for info in pkgutil.walk_packages(gradiv.__path__, 'gradiv.'):
    private = any(part.startswith('_') for part in info.name.split('.'))
    if info.ispkg and not private:
      modules.append(__import__(info.name, fromlist=['_']))
  for module in modules:
    for name, value in vars(module).items():
      if name.startswith('_') or not isinstance(value, types.FunctionType):
        continue
      kind = value.__annotations__.get('return')
      if isinstance(kind, type) and issubclass(kind, returns) and (
          value.__module__.startswith('gradiv.')):
        found.setdefault(value, f'{module.__name__}.{name}')
  return found


def floats_of(function):
  """Name the parameters that may be floats."""
  def holds_float(annotation):
    unions = typing.Union, types.UnionType
    return annotation is float or typing.get_origin(annotation) in unions and (
      any(map(holds_float, typing.get_args(annotation))))

  hints = function.__annotations__
  return {name for name in inspect.signature(function).parameters
          if holds_float(hints.get(name))}


class TableTest(parameterized.TestCase):

  def test_every_transformation_has_a_row(self):
    covered = {f for row in table.TABLE for f in row.covers or (row.factory,)}
    public = public_functions(optax.GradientTransformation)
    # Its updates have rows of workers: tests/gradiv/meshes has its table.
    del public[meshes.on_mesh]
    self.assertGreater(len(public), 35)
    missing = sorted(public[f] for f in public.keys() - covered)
    self.assertEmpty(missing, 'add a row for each of these to tests/contract/'
                     'table.py, so that it is held to what all others keep')

  def test_so_has_every_weighting(self):
    covered = {f for row in table.TABLE for f in row.covers}
    public = public_functions(weightings.Weighting)
    missing = sorted(public[f] for f in public.keys() - covered)
    self.assertEmpty(missing)

  def test_names_are_unique(self):
    names = [row.name for row in table.TABLE]
    self.assertLen(set(names), len(names))

  @parameterized.named_parameters(*table.named())
  def test_every_number_is_injected(self, row):
    for function in row.covers[-1:] or (row.factory,):
      names = floats_of(function) - set(row.options)
      self.assertEmpty(names - row.numbers.keys() - set(row.fixed))

  def test_every_argument_is_spelled_out(self):
    for returns in (optax.GradientTransformation, weightings.Weighting):
      for function, name in public_functions(returns).items():
        kinds = {
          p.kind for p in inspect.signature(function).parameters.values()}
        with self.subTest(name):
          self.assertNotIn(inspect.Parameter.VAR_KEYWORD, kinds)


if __name__ == '__main__':
  absltest.main()
