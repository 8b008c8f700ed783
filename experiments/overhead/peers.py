"""Rules of gradiv under `vmap`, beside those of TorchJD, on one device.

Each rule combines n gradients of D numbers that lie in one array, once
compiled by JAX and once by TorchJD on a PyTorch matrix of the same numbers, in
turns within one process. TorchJD is an optional extra (``pip install
'.[peers]'``); where it is missing, one line says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from experiments.cost import timing
from gradiv import weightings

AXIS = 'workers'
SIZES, COUNTS = (100_000, 1_000_000), (8, 32)
ROUNDS = 5


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


def measure(
  sizes: tuple[int, ...] = SIZES, counts: tuple[int, ...] = COUNTS,
  rounds: int = ROUNDS,
) -> list[dict[str, Any]] | str:
  """Time each rule at each size.

  Returns:
    For each D and n, milliseconds by rule of both, and of TorchJD's result the
    distance from ours; or why nothing was measured.
  """
  try:
    import torch
    from torchjd import aggregation
  except ImportError as error:
    return (f"TorchJD is not measured: {error}; pip install '.[peers]' "
            'installs it')
  return [_cell(torch, aggregation, n, size, rounds)
          for size in sizes for n in counts]


def _cell(torch, aggregation, n, size, rounds):
  rows = np.random.default_rng(n).normal(0.1, 1, (n, size)).astype('f')
  grads, matrix = {'g': jnp.asarray(rows)}, torch.from_numpy(rows)
  rules, num_bad = {}, max(1, n // 4)
  for name, pair in PAIRS.items():
    try:
      peer = pair.theirs(aggregation, num_bad)
      step = _compiled(pair.ours(num_bad), grads)
      ours, theirs = np.asarray(step(grads)['g']), peer(matrix).numpy()
      times = timing.in_turn(
        {'ours': lambda step=step: step(grads),
         'theirs': lambda peer=peer: peer(matrix)}, rounds=rounds)
    except ImportError as error:  # one of TorchJD's own extras
      rules[name] = {'failed': str(error)}
      continue
    rules[name] = times | {'distance': None if pair.draws else float(
      np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))}
  return {'n': n, 'D': size, 'rules': rules}


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
  for name in PAIRS:
    row = [_shown(cell['rules'][name]) for cell in cells]
    lines.append(f'{name:<14}' + ''.join(f'{shown:>20}' for shown in row))
  return '\n'.join(lines) + '\n'


def _shown(times):
  if 'failed' in times:
    return 'not installed'
  return f'{times["theirs"] / times["ours"]:.2f} ({times["ours"]:.2f})'
