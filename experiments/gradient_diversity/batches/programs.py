"""The programs of `gradient_diversity --study=batches`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import trainer
from experiments.gradient_diversity import task as task_lib, tracking


class Programs(task_lib.Problem):
  """The training set and the network, and what trains lanes of each kind."""

  def plain(self, size: int, lanes: dict) -> trainer.Program:
    """Train on batches of a size: lanes of 'rate', 'seed' and 'replication'."""
    rows = rows_of(self, lanes['replication'], lanes['seed'])
    return self._of_rows(size, lanes, rows, 1, tracking.plain_sgd)

  def tracked(self, size: int, lanes: dict, *, by_layer: bool = False
              ) -> trainer.Program:
    """Train on several workers, whose moments are tracked.

    B_S is computed exactly, too: with `by_layer` by layer, if --exact. Without
    a 'replication' it is 1.
    """
    config, seed = self.config, lanes['seed']
    rows = rows_of(self, lanes.get('replication', np.ones(len(seed))), seed)
    exact = self.evaluate_exactly if config.exact else self.evaluate
    return self._of_rows(
      size, lanes, rows, config.num_workers, functools.partial(
        tracking.tracked_sgd, config=config, batch_size=size),
      gradient=self.measured_gradient, read=tracking.read,
      tracker=tracking.of_workers,
      evaluate=exact if by_layer else self.evaluate_whole)

  def twins(self, size: int, lanes: dict) -> trainer.Program:
    """Train pairs, by 'half', on sets that differ in one example."""
    rows = twin_rows(self, lanes['half'], lanes['seed'])
    return self._of_rows(
      size, lanes, rows, 1, tracking.plain_sgd, compare=distances)

  def _of_rows(self, size, lanes, rows, num_workers, optimizer, **rest):
    axis_name = self.config.workers(num_workers).axis_name
    return self.program(lanes | {'rows': rows}, size, functools.partial(
      optimizer, axis_name=axis_name), counts_left_out=True, **rest)


def rows_of(task, replications: np.ndarray, seeds: np.ndarray) -> np.ndarray:
  """Stack the training sets of lanes: rows [L, train_examples]."""
  pairs = list(zip(replications.tolist(), seeds.tolist()))
  rows = {pair: task.rows(*pair) for pair in set(pairs)}
  return np.stack([rows[pair] for pair in pairs])


def twin_rows(task, halves: np.ndarray, seeds: np.ndarray) -> np.ndarray:
  """Stack the training sets of twins: in half 1, one example is another."""
  rows = rows_of(task, np.ones(len(seeds)), seeds)
  num_examples = rows.shape[1]
  for lane in np.flatnonzero(halves):
    place = np.random.default_rng(int(seeds[lane])).integers(num_examples)
    rows[lane, place] = num_examples
  return rows


def distances(params) -> dict:
  """Compare the first half of the lanes with the second, pair by pair.

  sqrt(‖w − w'‖² / (‖w‖² + ‖w'‖²)), from 0 to √2; both twins get the value.
  """
  flat = jnp.concatenate([x.reshape(len(x), -1)
                          for x in jax.tree.leaves(params)], 1)
  one, other = jnp.split(flat, 2)
  squares = lambda x: jnp.sum(x**2, 1)
  total = squares(one) + squares(other)
  found = jnp.sqrt(squares(one - other) / total)
  return {'distance': jnp.concatenate([found, found])}
