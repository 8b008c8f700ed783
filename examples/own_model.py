"""Trains a network of one's own on arrays of one's own: docs/training.md.

  python -m examples.own_model
"""

import numpy as np
import optax
from flax import nnx

from experiments import engine

x = np.random.default_rng(0).normal(size=(2048, 2)).astype('f')
y = (x[:, 0] * x[:, 1] > 0).astype('i')
train, test = {'x': x[512:], 'y': y[512:]}, {'x': x[:512], 'y': y[:512]}


def network(rngs):
  return nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu,
                        nnx.Linear(32, 2, rngs=rngs))


graph = nnx.graphdef(network(nnx.Rngs(0)))
apply = lambda params, x: nnx.merge(graph, params)(x)


def loss(params, batch, key):
  return optax.losses.softmax_cross_entropy_with_integer_labels(
    apply(params, batch['x']), batch['y']).mean()


def evaluate(params, test):
  return {'accuracy': (apply(params, test['x']).argmax(1) == test['y']).mean()}


# A folder that holds a run of another config is refused.
config = {'learning_rate': 1e-2}
state = engine.fit(
  lambda key: nnx.state(network(nnx.Rngs(key))), loss, optax.adam(**config),
  engine.pipeline.in_memory(train, batch_size=64), evaluate, held_out=test,
  workdir='runs/own_model', steps=300, config=config)
print(f'accuracy {evaluate(state["params"], test)["accuracy"]:.2f}')
