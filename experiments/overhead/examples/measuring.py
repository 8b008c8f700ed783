"""Measures each way on each workload, and lays the figures out."""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from experiments.cost import flops, timing
from experiments.engine import records
from experiments.overhead import workloads as overhead_models
from experiments.overhead.examples.config import Config
from experiments.overhead.ways import WAYS

COLUMNS = ('milliseconds', 'memory', 'flops')
# By how much sums of float32 in another order may come to differ.
TOLERANCE = 1e-3


def one_by_one(problem: overhead_models.Problem) -> tuple:
  """Differentiate one example after the other: what all ways are held to."""
  step = jax.jit(jax.value_and_grad(problem.loss))
  losses, mean, sq_norms = [], 0., []
  for i in range(problem.num_examples):
    example = jax.tree.map(lambda x: x[i], problem.batch)
    loss, grads = step(problem.params, example)
    flat = np.concatenate([
      np.ravel(g).astype(np.float64) for g in jax.tree.leaves(grads)])
    losses.append(float(loss))
    mean = mean + flat / problem.num_examples
    sq_norms.append(flat @ flat)
  return np.mean(losses), mean, np.array(sq_norms)


def errors(got: tuple, wanted: tuple) -> dict[str, float | None]:
  """Measure how far a step's results are from `one_by_one`, relatively.

  The gradient's error is the length of the difference; that of the squared
  norms is the largest, or of their mean, where that is all that is known.
  """
  loss, grads, squares = jax.device_get(got)
  flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])
  wanted_squares = wanted[2] if np.ndim(squares) else wanted[2].mean()
  return {
    'loss_error': float(abs(loss / wanted[0] - 1)),
    'grad_error': float(
      np.linalg.norm(flat - wanted[1]) / np.linalg.norm(wanted[1])),
    'norm_error': None if squares is None else float(
      np.max(np.abs(squares / wanted_squares - 1))),
  }


def measure(config: Config, name: str) -> dict[str, Any]:
  """Measure each way on one workload.

  Returns:
    What the workload is, and way -> median milliseconds of a step, bytes of
    temporary memory, FLOPs of the products, CPU seconds to trace and compile,
    and errors.

  Raises:
    RuntimeError: Where a way's numbers are wrong.
  """
  problem = overhead_models.build(config.sizes_of(name))
  wanted = one_by_one(problem)
  ways, steps = {}, {}
  for way, make in WAYS.items():
    if f'{name}:{way}' in config.skip:
      continue
    try:
      step = make(problem.loss)
    except ImportError as error:
      print(f"{name}: no row for {way} ({error}): pip install '.[benchmark]'")
      continue
    arguments = problem.params, problem.batch
    begun = time.process_time()
    steps[way] = jax.jit(step).lower(*arguments).compile()
    ways[way] = {
      'build_seconds': time.process_time() - begun,
      'memory': steps[way].memory_analysis().temp_size_in_bytes,
      'flops': flops.flops_traced(step, *arguments),
      **errors(steps[way](*arguments), wanted)}
    if max(value or 0 for key, value in ways[way].items()
           if key.endswith('_error')) > TOLERANCE:
      raise RuntimeError(f'{name}: {way} is wrong: {ways[way]}')
  times = timing.in_turn(steps, *arguments, rounds=config.rounds,
                         seconds=config.seconds)
  for way, milliseconds in times.items():
    ways[way]['milliseconds'] = milliseconds
  return {'num_examples': problem.num_examples,
          'num_parameters': problem.num_parameters, 'ways': ways}


def ratio(ways: dict, column: str, way: str) -> float:
  """Divide what a way costs by what the plain step does."""
  return ways[way][column] / ways['plain'][column]


def table(results: dict[str, dict]) -> str:
  """Lay the figures out, each with its ratio to the plain step."""
  lines = [
    '', f'on {timing.describe_device()}, float32; in brackets, times the plain '
    'step', '', f'{"":<13} {"ms":>18} {"MiB":>18} {"GFLOP":>18} {"error":>8}']
  for name, result in results.items():
    lines.append(f'{name}: {result["num_examples"]} examples, '
                 f'{result["num_parameters"]:,} parameters')
    for way, figures in result['ways'].items():
      cells = []
      for column, unit, digits in zip(COLUMNS, (1, 2**20, 1e9), (2, 1, 3)):
        times = f'({ratio(result["ways"], column, way):.2f})'
        cells.append(f'{figures[column] / unit:>10.{digits}f} {times:>7}')
      error = figures['norm_error']
      cells.append('' if error is None else f'{error:>8.0e}')
      lines.append(f'{way:<13} {" ".join(cells)}'.rstrip())
  return '\n'.join(lines) + '\n'


def run(config: Config) -> dict[str, Any]:
  """Measure all workloads, print the table, and keep the record."""
  results = {name: measure(config, name) for name in config.workloads}
  print(table(results))
  record = {'device': timing.describe_device(), 'jax': jax.__version__,
            'config': dataclasses.asdict(config), 'results': results}
  if config.workdir:
    path = pathlib.Path(config.workdir) / 'overhead_examples.json'
    records.write_whole(path, record)
    print(f'record: {path}')
  return record
