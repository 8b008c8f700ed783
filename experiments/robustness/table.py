"""How far bad workers move the update of each rule."""

from typing import NamedTuple

import jax
import numpy as np

from experiments.robustness import faults, rules


class Cell(NamedTuple):
  """What comes out of a rule under a fault.

  Attributes:
    error: ‖c u − ḡ‖/‖ḡ‖, with u the update and ḡ the mean of the good workers.
      The factor c is that of the rule: the best one when all are good. So it
      does not matter whether a rule sums, averages or normalizes.
    left_out: How many workers were left out as not finite.
  """

  error: float
  left_out: int


def compute(num_bad: int) -> dict[str, dict[str, Cell]]:
  """Compute all cells, by rule and fault."""
  return {name: _row(make, num_bad)
          for name, make in rules.rules(num_bad).items()}


def _row(make, num_bad):
  @jax.jit
  def aggregate(grads):
    tx = make()
    return jax.vmap(lambda g: tx.update(g, tx.init(g)), axis_name=rules.AXIS,
                    out_axes=None)(grads)

  wide = lambda x: np.asarray(x, float)
  all_good = faults.honest()
  update = wide(aggregate(all_good.astype(np.float32))[0])
  factor = update @ all_good.mean(0) / (update @ update)
  cells = {'none': Cell(_error(factor * update, all_good), 0)}
  for fault in faults.FAULTS:
    update, state = aggregate(faults.with_faults(fault, num_bad))
    cells[fault] = Cell(_error(factor * wide(update), all_good[:-num_bad]),
                        int(state.num_left_out))
  return cells


def _error(update, good):
  mean = good.mean(0)
  return float(np.linalg.norm(update - mean) / np.linalg.norm(mean))
