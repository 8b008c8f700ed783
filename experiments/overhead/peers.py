"""Rules of gradiv under `vmap`, beside those of TorchJD, on one device.

  python -m experiments.overhead.peers

Each rule combines n gradients of D numbers that lie in one array, once
compiled by JAX and once by TorchJD on a PyTorch matrix of the same numbers, in
turns within one process. TorchJD is an optional extra (``pip install
'.[peers]'``); where it is missing, one line says so. The table takes about four
minutes.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from gradiv import weightings

AXIS = 'workers'
SIZES, COUNTS = (100_000, 1_000_000), (8, 32)
# For each rule and size: seconds in turns, and of one turn. A rule that takes
# longer than all of them is called once.
SECONDS, TURN = 1.5, 0.03
MISSING = "TorchJD is not measured: {}; pip install '.[peers]' installs it"
# Of a process with virtual devices, which share out the cores.
_VIRTUAL = ('NPROC', 'JAX_NUM_CPU_DEVICES', 'XLA_FLAGS')


class Pair(NamedTuple):
  """A rule that both have.

  Attributes:
    ours: Makes the transformation, for f bad gradients.
    theirs: Makes TorchJD's aggregator, from its module and f.
    draws: Whether the rule draws orders or signs, so that results differ.
  """

  ours: Callable[[int], Any]
  theirs: Callable[[Any, int], Any]
  draws: bool = False


def _rule(weighting, **options):
  return gradiv.aggregate_by_weights(weighting, AXIS, **options)


def _drawn(weighting):
  return _rule(weighting, key=jax.random.key(0))


PAIRS = {
  'mean': Pair(lambda f: gradiv.aggregate_by_mean(AXIS),
               lambda t, f: t.Mean()),
  'Krum': Pair(lambda f: _rule(weightings.krum(f, power=1)),
               lambda t, f: t.Krum(f)),
  'trimmed mean': Pair(lambda f: gradiv.aggregate_by_trimmed_mean(f, AXIS),
                       lambda t, f: t.TrimmedMean(f)),
  'UPGrad': Pair(lambda f: _rule(weightings.upgrad()),
                 lambda t, f: t.UPGrad()),
  'DualProj': Pair(lambda f: _rule(weightings.dual_proj()),
                   lambda t, f: t.DualProj()),
  'MGDA': Pair(lambda f: _rule(weightings.mgda()), lambda t, f: t.MGDA()),
  'CAGrad': Pair(lambda f: _rule(weightings.cagrad(0.5)),
                 lambda t, f: t.CAGrad(0.5)),
  'IMTL-G': Pair(lambda f: _rule(weightings.imtl_g()),
                 lambda t, f: t.IMTLG()),
  'ConFIG': Pair(lambda f: _rule(weightings.conflict_free()),
                 lambda t, f: t.ConFIG()),
  'Aligned-MTL': Pair(lambda f: _rule(weightings.aligned_mtl()),
                      lambda t, f: t.AlignedMTL()),
  'PCGrad': Pair(lambda f: _drawn(weightings.pcgrad()),
                 lambda t, f: t.PCGrad(), draws=True),
  'FairGrad': Pair(lambda f: _rule(weightings.fairgrad(1.0)),
                   lambda t, f: t.FairGrad(alpha=1.0)),
}


def measure_apart() -> list[dict[str, Any]] | str:
  """Do as `measure`, in a process of its own that has all cores.

  Virtual devices, as the process of the other tables has them, would share them
  out, and a crash of one library must not take the other tables along.
  """
  if importlib.util.find_spec('torchjd') is None:
    return MISSING.format('no module torchjd')
  own = {key: value for key, value in os.environ.items()
         if key not in _VIRTUAL} | {'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.overhead.peers', 'json'],
    env=own, stdout=subprocess.PIPE, text=True, check=False)
  if done.returncode:
    return f'TorchJD is not measured: exit status {done.returncode}'
  return json.loads(done.stdout.splitlines()[-1])


def measure(
  sizes: tuple[int, ...] = SIZES, counts: tuple[int, ...] = COUNTS,
  seconds: float = SECONDS, names: tuple[str, ...] = tuple(PAIRS),
) -> list[dict[str, Any]] | str:
  """Time each rule at each size.

  Returns:
    For each D and n, milliseconds by rule of both, and of TorchJD's result the
    distance from ours, or why the rule failed; or why nothing was measured.
  """
  try:
    import torch
    from torchjd import aggregation
  except ImportError as error:
    return MISSING.format(error)
  return [_cell(torch, aggregation, n, size, seconds, names)
          for size in sizes for n in counts]


def _cell(torch, aggregation, n, size, seconds, names):
  rows = np.random.default_rng(n).normal(0.1, 1, (n, size)).astype('f')
  grads, matrix = {'g': jnp.asarray(rows)}, torch.from_numpy(rows)
  rules, num_bad = {}, max(1, n // 4)
  for name in names:
    try:
      rules[name] = _race(
        PAIRS[name], aggregation, num_bad, grads, matrix, seconds)
    except Exception as error:  # Of any library: the other rules go on.
      rules[name] = {'failed': f'{type(error).__name__}: {error}'}
  return {'n': n, 'D': size, 'rules': rules}


def _race(pair, aggregation, num_bad, grads, matrix, seconds):
  """Time one rule of both, and compare what they return."""
  peer = pair.theirs(aggregation, num_bad)
  step = _compiled(pair.ours(num_bad), grads)
  ours, theirs = np.asarray(step(grads)['g']), peer(matrix).numpy()
  times = in_turns({'ours': lambda: jax.block_until_ready(step(grads)),
                    'theirs': lambda: peer(matrix)}, seconds)
  return times | {'distance': None if pair.draws else float(
    np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))}


def in_turns(
  steps: dict[str, Callable[[], Any]], seconds: float
) -> dict[str, float]:
  """Time steps in many short turns; return the median milliseconds of each.

  A turn repeats a short step, and its first call only finds the caches as the
  other step has left them.

  >>> times = in_turns({'add': lambda: 1 + 1}, 0.01)
  >>> 0 < times['add'] < 1000
  True
  """
  begun, times = time.perf_counter(), {name: [] for name in steps}
  while True:
    for name, step in steps.items():
      times[name] += _turn(step)
    if time.perf_counter() - begun > seconds:
      return {name: 1e3 * float(np.median(ts)) for name, ts in times.items()}


def _turn(step):
  """Call a step for a while; return the seconds of all calls but the first."""
  begun, durations = time.perf_counter(), []
  while True:
    start = time.perf_counter()
    step()
    end = time.perf_counter()
    durations.append(end - start)
    if end - begun > TURN:
      return durations[1:] or durations


def _compiled(tx, grads):
  """Compile a step over the leading axis of workers."""
  state = tx.init(jax.tree.map(lambda x: jnp.zeros_like(x[0]), grads))
  step = lambda grads: jax.vmap(
    lambda g: tx.update(g, state)[0], axis_name=AXIS, out_axes=None)(grads)
  return jax.jit(step).lower(grads).compile()


def table(cells: list[dict[str, Any]] | str) -> str:
  """Lay out TorchJD's time over ours: above 1, ours is faster."""
  if isinstance(cells, str):
    return f'\n{cells}\n'
  heads = [f'n={cell["n"]} D={cell["D"]:,}' for cell in cells]
  lines = ['', "TorchJD's time over gradiv's, and gradiv's milliseconds", '',
           f'{"":<14}' + ''.join(f'{head:>20}' for head in heads)]
  for name in cells[0]['rules']:
    row = [_shown(cell['rules'][name]) for cell in cells]
    lines.append(f'{name:<14}' + ''.join(f'{shown:>20}' for shown in row))
  failures = [
    f'{name} failed, {head}: {times["failed"]}'
    for head, cell in zip(heads, cells)
    for name, times in cell['rules'].items() if 'failed' in times]
  return '\n'.join([*lines, *failures]) + '\n'


def _shown(times):
  if 'failed' in times:
    return 'failed'
  return f'{times["theirs"] / times["ours"]:.2f} ({times["ours"]:.2f})'


if __name__ == '__main__':
  found = measure()
  print(json.dumps(found) if sys.argv[1:] == ['json'] else table(found))
