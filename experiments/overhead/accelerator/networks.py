"""The networks of the table of per-example statistics, by size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import models
from experiments.overhead import workloads
from experiments.overhead.accelerator import resnet50
from experiments.overhead.sizes import Sizes


class Row(NamedTuple):
  """One network at one size.

  Attributes:
    sizes: Its sizes; the model is one of `experiments.models`, or 'resnet50'.
    ways: What is timed beside the plain step, names of `overhead.ways.WAYS`.
  """

  sizes: Sizes
  ways: tuple[str, ...]


ALL = ('gradiv', 'gradiv_norms', 'vmap', 'jax_privacy')
MOST = ('gradiv', 'gradiv_norms', 'vmap')
# Large enough that the device, and not the launch of kernels, is timed.
LARGE = {
  'mlp': Row(Sizes(
    'mlp', 2048, (784,), 10, {'hidden': (1024, 1024)}), (*ALL, 'gradiv_gram')),
  'transformer': Row(Sizes(
    'transformer', 64, (256,), 1024,
    {'width': 512, 'heads': 8, 'layers': 8}), ALL),
  'resnet18': Row(Sizes('resnet18', 256, (32, 32, 3), 10), ALL),
  'gpt': Row(Sizes(
    'transformer', 8, (1024,), 50304,
    {'width': 768, 'heads': 12, 'layers': 12}), MOST),
  'cnn': Row(Sizes('cnn', 2048, (28, 28, 1), 10), ALL),
  'lstm': Row(Sizes('lstm', 256, (128,), 64), ALL),
  'resnet50': Row(Sizes('resnet50', 64, (224, 224, 3), 1000), MOST),
}
# Small enough to try the whole script on a CPU.
SMALL = {
  'mlp': Row(Sizes('mlp', 8, (16,), 4, {'hidden': (8,)}),
             LARGE['mlp'].ways),
  'transformer': Row(Sizes(
    'transformer', 4, (16,), 32, {'width': 16, 'heads': 2, 'layers': 2}), ALL),
  'resnet50': Row(Sizes('resnet50', 2, (32, 32, 3), 10), ('gradiv',)),
}


def build(row: Row) -> workloads.Problem:
  """Draw parameters and a batch of random examples from a fixed seed."""
  if row.sizes.model != 'resnet50':
    return workloads.build(row.sizes)
  sizes = row.sizes
  network = resnet50.Resnet50(
    sizes.input_shape[-1], sizes.num_classes, rngs=nnx.Rngs(0))
  graph, params = nnx.split(network)
  rng = np.random.default_rng(0)
  shape = (sizes.batch_size, *sizes.input_shape)
  batch = (rng.normal(size=shape).astype('f'),
           rng.integers(sizes.num_classes, size=sizes.batch_size, dtype='i'))

  def loss(params, batch):
    inputs, labels = batch
    single = inputs.ndim == 3
    logits = nnx.merge(graph, params)(inputs[None] if single else inputs)
    return models.cross_entropy(logits[0] if single else logits, labels)

  return workloads.Problem(
    loss, nnx.to_pure_dict(params), jax.device_put(jax.tree.map(
      jnp.asarray, batch)))
