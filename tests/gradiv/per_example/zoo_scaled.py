"""Weights that are scaled, channel by channel, before their use."""

import jax.numpy as jnp
from jax import lax

from tests.gradiv.per_example.case import Table

CASES = Table()


@CASES.case
def weight_scaled_by_output(draw):
  scale = draw(3)
  net = lambda p, x: jnp.tanh(x @ (p * scale[None]))
  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def weight_scaled_by_a_parameter(draw):
  net = lambda p, x: jnp.tanh(x @ (p['w'] * p['g'][None]))
  return draw.regression(net, {'w': draw(4, 3), 'g': draw(3)}, 6, 4)


@CASES.case
def weight_divided_by_input(draw):
  scale = 1 + jnp.square(draw(4))
  net = lambda p, x: jnp.tanh(x @ (p / scale[:, None])) @ (scale[:, None] * p).T
  return draw.regression(net, draw(4, 3), 6, 4)


@CASES.case
def heads_scaled(draw):
  """Scales along one of two axes of a factor, in either order of axes."""
  one, two = draw(2), draw(3)

  def net(p, x):
    q = p['q'] * one[None, :, None] * two[None, None]
    h = jnp.einsum('ti,ihd->thd', x, q)
    return jnp.einsum('thd,dhi->ti', jnp.tanh(h), p['o'] * one[None, :, None])

  return draw.regression(net, {'q': draw(4, 2, 3), 'o': draw(3, 2, 4)}, 6, 4)


# All that a loop returns counts as different between examples.
@CASES.case(falls_back=('scan',))
def weights_scaled_in_a_loop(draw):
  def net(p, x):
    layer = lambda x, w: (jnp.tanh(x @ (w[0] * w[1][None])), None)
    return lax.scan(layer, x, (p['w'], p['g']))[0]

  return draw.regression(net, {'w': draw(3, 4, 4), 'g': draw(3, 4)}, 6, 4)


@CASES.case
def experts_scaled(draw):
  """A scale along an axis of blocks."""
  scale = draw(2)
  net = lambda p, x: jnp.tanh(jnp.einsum(
    'tei,eij->tej', x, p * scale[:, None, None]))
  return draw.regression(net, draw(2, 4, 3), 6, 2, 4)


@CASES.case
def embedding_scaled_by_column(draw):
  scale = draw(3)

  def loss_fn(p, tokens):
    return jnp.sum(jnp.tanh((p * scale[None])[tokens]) ** 2)

  return loss_fn, draw(7, 3), draw.integers(7, 4)


@CASES.case
def kernel_scaled_by_output(draw):
  def net(p, x):
    conv = lambda x, w: lax.conv_general_dilated(
      x[None], w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return jnp.tanh(conv(x, p['w'] * p['g'][None, None, None])[0])

  return draw.regression(net, {'w': draw(3, 3, 2, 4), 'g': draw(4)}, 6, 6, 2)
