"""Run a scan or a cond in part, with values from inside of it as results.

Both functions take the program, the index of the equation, its operands, the
positions of its results that are used, the requested `Inner` values and
whether to run side effects. They return the used results and the inner values.
"""

from typing import Any

from jax import lax

from gradiv._common import compat


def run_scan(
  program: Any, index: int, ins: list, live: list[int], inner: list,
  effects: bool,
) -> tuple[list, list]:
  """Run a scan; values of its body are stacked over the steps."""
  equation, body = program.equations[index], program.body(index)
  num_consts, num_carry = program.carries(index)
  consts, init, xs = (ins[:num_consts], ins[num_consts:][:num_carry],
                      ins[num_consts + num_carry:])
  atoms = [x.atom for x in inner]
  kept = _kept_carries(
    body, num_consts, num_carry, live, atoms, effects)
  ys = [k for k in live if k >= num_carry]

  def step(carry, x):
    state = dict(zip(kept, carry))
    args = [*consts, *(state.get(k) for k in range(num_carry)), *x]
    results = body.run(
      args, [body.outputs[k] for k in (*kept, *ys)] + atoms, effects)
    return results[:len(kept)], results[len(kept):]

  params = equation.params
  carry, stacked = lax.scan(
    step, [init[k] for k in kept], xs, length=params['length'],
    reverse=params['reverse'], unroll=params['unroll'])
  outs = dict(zip(kept, carry)) | dict(zip(ys, stacked))
  return [outs[k] for k in live], stacked[len(ys):]


def _kept_carries(body, num_consts, num_carry, live, atoms, effects):
  """Find the carries that the requested values depend on.

  Backward through time, a recurrence carries the sum dW of its products so
  far. Once its factors are read instead, nothing depends on dW, and it is no
  longer carried. A carry may depend on others, hence the iteration.
  """
  kept: list[int] = []
  while True:
    outs = sorted(set(live) | set(kept))
    wanted = [body.outputs[k] for k in outs] + atoms
    values, _ = body.needed(wanted, effects)
    now = [k for k in range(num_carry) if k in outs
           or body.inputs[num_consts + k] in values]
    if now == kept:
      return kept
    kept = now


def run_cond(
  program: Any, index: int, ins: list, live: list[int], inner: list,
  effects: bool,
) -> tuple[list, list]:
  """Run a cond; values of a branch are zero where another one is taken."""
  def zeros(x):
    shape, dtype = program.shape_and_dtype(x)
    return compat.zeros_of(shape, dtype, program.varying_axes(x))

  def run(branch):
    body = program.body(index, branch)
    mine = [x.atom for x in inner if x.branch == branch]

    def taken(*args):
      results = body.run(
        args, [body.outputs[k] for k in live] + mine, effects)
      values = iter(results[len(live):])
      extra = [next(values) if x.branch == branch else zeros(x)
               for x in inner]
      return results[:len(live)], extra

    return taken

  branches = program.equations[index].params['branches']
  return lax.switch(ins[0], [run(b) for b in range(len(branches))], *ins[1:])


RUN_IN_PART = {'scan': run_scan, 'cond': run_cond}
