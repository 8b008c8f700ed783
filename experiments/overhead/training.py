"""What each transformation and metric adds to a training step.

The step is a whole one: a transformer on 4 examples of 128 tokens on each of 8
workers, one a device, with Adam. What is computed of the gradients costs the
same however many tokens they are averaged over, so that its share falls with
the batch of a worker.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.cost import collectives, timing
from experiments.overhead import chain_table, chains, sizes, workloads

WORKLOAD = sizes.resized('transformer', {
  'batch_size': chains.NUM_WORKERS * chains.BATCH_SIZE, 'width': 128,
  'layers': 2})
ROUNDS = 5


def measure(rounds: int, names: tuple[str, ...] | None = None) -> dict:
  """Compile and time the step of each row.

  Args:
    rounds: Steps of each, taken in turn.
    names: The rows to measure; all by default.

  Returns:
    What the step is, and row -> milliseconds, CPU seconds to trace and compile,
    temporary memory and what a worker sends, the last two in gradients.
  """
  problem = workloads.build(WORKLOAD)
  rows = {'plain': chain_table.PLAIN} | {
    name: row for section in chain_table.SECTIONS.values()
    for name, row in section.items() if names is None or name in names}
  result, steps = {}, {}
  _compiled(chain_table.PLAIN, problem)  # pays for what jax sets up once
  for name, row in rows.items():
    steps[name], result[name] = _compiled(row, problem)
  times = timing.in_turn(steps, rounds=rounds)
  for name, milliseconds in times.items():
    result[name] |= {'milliseconds': milliseconds,
                     'is_measure': name in chain_table.MEASURE}
  return {'num_workers': chains.NUM_WORKERS, 'rows': result,
          'num_parameters': problem.num_parameters,
          'tokens_per_worker': chains.BATCH_SIZE * WORKLOAD.input_shape[0]}


def _compiled(row, problem):
  """Compile a row; return its step, and what the program costs."""
  n = chains.NUM_WORKERS
  batch = jax.tree.map(
    lambda x: x.reshape(n, -1, *x.shape[1:]), problem.batch)
  begin, mapped = mapped_step(row, problem.loss, problem.params)
  start = time.process_time()
  program = jax.jit(mapped, donate_argnums=(0, 1)).lower(
    *begin, batch).compile()
  seconds = time.process_time() - start
  width = 4 * problem.num_parameters
  return Stepper(program, begin, batch), {
    'compile_seconds': seconds,
    'memory': program.memory_analysis().temp_size_in_bytes / width,
    'sent': collectives.bytes_sent(program.as_text(), n) / width}


def mapped_step(row: chains.Row, loss: Callable, params: Any) -> tuple:
  """Make the step of a row.

  Returns:
    The parameters and the state at first, and the step of all workers: of
    both and a batch [workers, ...] to ((parameters, state), (loss, metric)).
  """
  tx = row.chain()
  begin = params, tx.init(params)
  if row.is_own:
    begin = gradiv.replicate(begin, chains.NUM_WORKERS)
  own = 0 if row.is_own else None
  return begin, gradiv.map_workers(
    _step_of(row, tx, loss), chains.AXIS, in_axes=(own, own, 0),
    out_axes=((own, own), None), backend='shard_map')


def _step_of(row, tx, loss_fn):
  tx = optax.with_extra_args_support(tx)

  def step(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    seen = row.metric(grads, state, params) if row.metric else ()
    updates, state = tx.update(grads, state, params, **row.extra(params))
    params = optax.apply_updates(params, updates)
    return (params, state), (jax.lax.pmean(loss, chains.AXIS), seen)

  return step


class Stepper:
  """A compiled step with the parameters and the state that it changes."""

  def __init__(self, program, begin, batch):
    args, _ = program.input_shardings
    # Copied, as they are donated.
    self._carry = jax.device_put(jax.tree.map(jnp.copy, begin), args[:2])
    self._batch = jax.device_put(batch, args[2])
    self._program = program

  def __call__(self):
    """Take one step; return the loss and what is measured."""
    self._carry, seen = self._program(*self._carry, self._batch)
    return seen


def table(result: dict) -> str:
  """Lay the figures out, each beside its ratio to the plain step's."""
  plain = result['rows']['plain']
  lines = [f'a training step of {result["num_parameters"]:,} parameters, '
           f'{result["tokens_per_worker"]} tokens on each of '
           f'{result["num_workers"]} workers; in brackets over the plain one',
           '', f'{"":<42} {"step (ms)":>16} {"compile (s)":>14} '
           f'{"memory":>14} {"sent":>6}']
  for name, row in result['rows'].items():
    cell = lambda key, digits: (
      f'{row[key]:.{digits}f} ({row[key] / plain[key]:.2f})')
    lines.append(
      f'{name:<42} {cell("milliseconds", 1):>16} '
      f'{cell("compile_seconds", 1):>14} {cell("memory", 1):>14} '
      f'{row["sent"]:>6.2f}')
  return '\n'.join(lines) + '\n'
