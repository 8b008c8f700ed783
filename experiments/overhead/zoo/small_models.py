"""Layers of Equinox, Haiku and Flax; solvers of Diffrax; graphs of Jraph."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.overhead.zoo.table import MODELS, Problem

EXAMPLES = 32


def normal(*shape, seed=0):
  """Draw numbers for each example."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(EXAMPLES, *shape)).astype(np.float32)


def squares(net, params, batch) -> Problem:
  """Bring all outputs to zero."""
  return Problem(lambda params, x: jnp.mean(jnp.square(net(params, x))),
                 params, batch)


def of_equinox(module, batch, call=lambda module, x: module(x)) -> Problem:
  """Train the arrays of an Equinox module."""
  import equinox as eqx
  params, rest = eqx.partition(module, eqx.is_inexact_array)
  return squares(lambda params, x: call(eqx.combine(params, rest), x),
                 params, batch)


@MODELS.model('equinox')
def mlp():
  import equinox as eqx
  return of_equinox(
    eqx.nn.MLP(256, 10, 512, 3, key=jax.random.key(0)), normal(256))


@MODELS.model('equinox')
def attention():
  import equinox as eqx
  return of_equinox(
    eqx.nn.MultiheadAttention(4, 96, key=jax.random.key(0)), normal(24, 96),
    lambda attend, x: attend(x, x, x))


@MODELS.model('equinox')
def gru():
  import equinox as eqx
  cell = eqx.nn.GRUCell(32, 96, key=jax.random.key(0))
  return of_equinox(cell, normal(24, 32), lambda cell, x: jax.lax.scan(
    lambda h, x: (cell(x, h), None), jnp.zeros(96), x)[0])


@MODELS.model('equinox')
def transposed_convolution():
  import equinox as eqx
  keys = jax.random.split(jax.random.key(0))
  layers = eqx.nn.Sequential([
    eqx.nn.Conv2d(3, 32, 3, 2, 1, key=keys[0]), eqx.nn.Lambda(jnp.tanh),
    eqx.nn.ConvTranspose2d(32, 16, 4, 2, 1, key=keys[1])])
  return of_equinox(layers, normal(3, 32, 32))


def of_haiku(net, x) -> Problem:
  """Train a Haiku function of one example."""
  import haiku as hk
  net = hk.without_apply_rng(hk.transform(net))
  params = net.init(jax.random.key(0), x[0])
  return squares(net.apply, params, x)


@MODELS.model('dm-haiku')
def lstm():
  import haiku as hk

  def net(x):
    core = hk.LSTM(96)
    return hk.dynamic_unroll(core, x, core.initial_state(None))[0]

  return of_haiku(net, normal(24, 32))


@MODELS.model('dm-haiku')
def conv_net():
  import haiku as hk
  return of_haiku(lambda x: hk.Sequential([
    hk.Conv2D(32, 3), jax.nn.relu, hk.Conv2D(64, 3, 2), jax.nn.relu,
    jnp.ravel, hk.Linear(10)])(x), normal(16, 16, 3))


def of_linen(module, x) -> Problem:
  """Train a Linen module; what else it holds stays as it is."""
  held = dict(module.init(jax.random.key(0), x[0]))
  params = held.pop('params')
  return squares(lambda params, x: module.apply(
    {'params': params, **held}, x), params, x)


@MODELS.model('flax')
def convolutions_with_group_norm():
  import flax.linen as nn
  return of_linen(nn.Sequential([
    nn.Conv(32, (3, 3)), nn.GroupNorm(8), nn.relu, nn.Conv(32, (3, 3)),
    nn.GroupNorm(8), nn.relu, nn.Dense(8)]), normal(16, 16, 3))


def two_dense(norm, **options) -> Problem:
  """Two dense layers of Linen, the weights of each under a norm."""
  import flax.linen as nn

  class Net(nn.Module):

    @nn.compact
    def __call__(self, x):
      x = jnp.tanh(norm(nn.Dense(256))(x, **options))
      return norm(nn.Dense(64))(x, **options)

  return of_linen(Net(), normal(24, 128))


@MODELS.model('flax')
def weight_norm():
  import flax.linen as nn
  return two_dense(nn.WeightNorm)


@MODELS.model('flax')
def spectral_norm():
  import flax.linen as nn
  return two_dense(nn.SpectralNorm, update_stats=False)


@MODELS.model('flax')
def convolutions_with_weight_norm():
  import flax.linen as nn

  class Net(nn.Module):

    @nn.compact
    def __call__(self, x):
      for _ in range(2):
        x = nn.WeightNorm(nn.Conv(32, (3, 3)), use_scale=False)(x)
        x = nn.relu(nn.GroupNorm(8)(x))
      return nn.Dense(8)(x)

  return of_linen(Net(), normal(16, 16, 3))


@MODELS.model('flax')
def recurrent():
  import flax.linen as nn
  return of_linen(nn.RNN(nn.OptimizedLSTMCell(96)), normal(24, 32))


@MODELS.model('diffrax')
def neural_ode():
  import diffrax
  import equinox as eqx
  field = eqx.nn.MLP(8, 8, 128, 2, activation=jnp.tanh, key=jax.random.key(0))

  def solve(field, y):
    return diffrax.diffeqsolve(
      diffrax.ODETerm(lambda t, y, args: field(y)), diffrax.Heun(), 0., 1.,
      0.1, y, stepsize_controller=diffrax.ConstantStepSize(), max_steps=16,
      adjoint=diffrax.DirectAdjoint()).ys

  return of_equinox(field, normal(8), solve)


@MODELS.model('jraph')
def graph_network():
  import haiku as hk
  import jraph
  senders, receivers = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 0, 2])

  def net(x):
    update = lambda size: lambda *xs: jnp.tanh(hk.Linear(size)(
      jnp.concatenate([x for x in xs if x is not None], -1)))
    graph = jraph.GraphsTuple(
      nodes=x, edges=x[senders] - x[receivers], senders=senders,
      receivers=receivers, globals=None, n_node=np.array([4]),
      n_edge=np.array([5]))
    layer = jraph.GraphNetwork(update(128), update(128))
    return layer(layer(graph)).nodes

  return of_haiku(net, normal(4, 64))


@MODELS.model('penzai')
def penzai_mlp():
  from penzai import pz
  from penzai.models import simple_mlp
  model = simple_mlp.MLP.from_config(
    name='mlp', init_base_rng=jax.random.key(0),
    feature_sizes=[256, 512, 512, 10])
  params, rest = pz.unbind_params(model, freeze=True)[::-1]
  names = [p.label for p in params]

  def net(values, x):
    bound = pz.bind_variables(rest, [
      pz.ParameterValue(label=name, value=v)
      for v, name in zip(values, names)])
    return bound(pz.nx.wrap(x).tag('features')).unwrap('features')

  return squares(net, [p.value for p in params], normal(256))
