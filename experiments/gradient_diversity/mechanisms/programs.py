"""The programs of `gradient_diversity --study=mechanisms`."""

import functools

import jax
import numpy as np
import optax

import gradiv
from experiments.engine import trainer
from experiments.gradient_diversity import task as task_lib, tracking
from experiments.gradient_diversity.mechanisms import (
  acting,
  arms,
  measuring,
  wires,
)


class Programs(task_lib.Problem):
  """The training set and the network, and what trains lanes of each kind."""

  def plain(self, lanes: dict, size: int) -> trainer.Program:
    """Train by plain SGD on one worker."""
    return self._as_it_is(lanes, size, functools.partial(
      tracking.plain_sgd, axis_name=self.config.workers(1).axis_name))

  def under(self, mechanism: arms.Mechanism, lanes: dict, size: int
            ) -> trainer.Program:
    """Train under a mechanism: lanes of 'strength', 'rate' and 'seed'."""
    axis_name = self.config.workers().axis_name
    is_of_examples = self.config.per_example

    def make_optimizer(lane):
      key = trainer.key_for(lane['seed'], 'mechanism')
      before = () if is_of_examples else (
        acting.make(mechanism, lane['strength'], key, axis_name),)
      return optax.chain(*before, gradiv.aggregate_by_mean(axis_name),
                         optax.sgd(lane['rate']))

    return self._as_it_is(
      lanes, size, make_optimizer, gradient=functools.partial(
        self._of_each_example, mechanism) if is_of_examples else None)

  def _of_each_example(self, mechanism, lane, params, batch, key):
    """Average what the mechanism makes of each example's gradient."""
    tx = acting.make(mechanism, lane['strength'], key, 'examples')

    def one(example):
      loss, g = jax.value_and_grad(self.loss)(
        params, jax.tree.map(lambda x: x[None], example),
        gradiv.worker_key(key, 'examples'))
      return loss, tx.update(g, tx.init(g))[0]

    return jax.tree.map(
      lambda x: x.mean(0), jax.vmap(one, axis_name='examples')(batch))

  def over(self, wire: arms.Wire, lanes: dict, size: int) -> trainer.Program:
    """Train over a wire: lanes of 'rate' and 'seed'."""
    axis_name = self.config.workers(self.config.bits_workers).axis_name

    def make_optimizer(lane):
      key = trainer.key_for(lane['seed'], 'wire')
      return optax.chain(wires.make(wire, key, axis_name),
                         optax.sgd(lane['rate']))

    return self._as_it_is(
      lanes, size, make_optimizer,
      private=('opt_state',) if wire.feeds_back else ())

  def measure(self, params, seeds) -> dict[str, np.ndarray]:
    """Measure B_S of networks under each mechanism; see `measuring`."""
    return measuring.measure(self.config, self, params, seeds.tolist())

  def read_wire(self, wire: arms.Wire, params) -> dict[str, np.ndarray]:
    """Read the test set, and count the bits of a wire: [lanes] each."""
    leaves = jax.tree.leaves(params)
    bits = wires.bits(
      wire, [x.shape[1:] for x in leaves], self.config.bits_workers)
    return {'test': self.test_accuracy(params),
            'bits': np.full(len(leaves[0]), bits)}

  def _as_it_is(self, lanes, size, make_optimizer, **rest):
    """Train lanes on the training set as it is, in one order for all."""
    rows = np.tile(self.rows(1, self.config.seed), (len(lanes['seed']), 1))
    return self.program(lanes | {'rows': rows}, size, make_optimizer, **rest)
